"""Which of a renter's sources the agent may ask: none in its own network, or a job could make it call neighbours."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

Resolve = Callable[[str], Awaitable[list[str]]]
"""All addresses of a host name; empty if it has none."""


async def public_sources(sources: Sequence[str], resolve: Resolve) -> tuple[str, ...]:
    """The sources whose host has public addresses only. What comes from them is verified block by block anyway."""
    kept = []
    for source in sources:
        host = urlsplit(source).hostname or ""
        addresses = await resolve(host)
        if addresses and all(ipaddress.ip_address(address).is_global for address in addresses):
            kept.append(source)
    return tuple(kept)


async def resolve_host(host: str) -> list[str]:
    """Ask the system's resolver."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(address[0]).split("%")[0] for *_, address in found})
