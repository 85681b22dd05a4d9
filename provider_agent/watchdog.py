"""Stops containers that outlived their paid time although the agent is dead. No chain, no key: labels and leases only.

The agent raises a lease when a job's time is extended: a file named like the container that holds the new expiry.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpumarket.errors import MarketError
from gpumarket.log import Log
from provider_agent.container import EXPIRES_LABEL
from provider_agent.runtime import Container, Runtime

STOP_GRACE_S = 10.0


async def stop_overdue(runtime: Runtime, leases: Path, now: float, log: Log) -> list[str]:
    """Stop every running container of the market whose time is long over; their names.

    A label that cannot be read stops nothing: the agent will judge it.

    Raises:
        MarketError: `docker_unreachable`.
    """
    stopped = []
    for container in await runtime.list({EXPIRES_LABEL: ""}):
        expires = expiry(container, leases)
        if expires is None or not container.running or now <= expires:
            continue
        try:
            await runtime.stop(container.id, STOP_GRACE_S)
        except MarketError as error:
            log.warning("overdue container does not stop", container=container.name, code=error.code)
            continue
        log.warning("overdue container stopped", container=container.name, expired=expires)
        stopped.append(container.name)
    return stopped


def expiry(container: Container, leases: Path) -> int | None:
    """Unix seconds after which nobody pays: the later of label and lease; None if there is no readable label."""
    label = container.labels.get(EXPIRES_LABEL, "")
    if not label.isdecimal():
        return None
    return max(int(label), read_lease(leases, container.name))


def read_lease(leases: Path, name: str) -> int:
    try:
        text = (leases / name).read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def write_lease(leases: Path, name: str, expires: int) -> None:
    """Raise a container's expiry; never lowers it."""
    if read_lease(leases, name) >= expires:
        return
    leases.mkdir(parents=True, exist_ok=True)
    draft = leases / f".{name}"
    draft.write_text(str(expires))
    os.replace(draft, leases / name)


def drop_lease(leases: Path, name: str) -> None:
    (leases / name).unlink(missing_ok=True)
