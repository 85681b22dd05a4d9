"""The sender's process dies at every line it runs; the next process finishes the deed, exactly once."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gpumarket.chain.journal
import gpumarket.chain.node
import gpumarket.chain.sender
from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.codec import checksum, keccak
from gpumarket.chain.deployments import Deployment, PaymentToken
from gpumarket.chain.sender import Sender, load_account
from gpumarket.rules.units import NO_ADDRESS, Address
from tests.parts.anvil import ANVIL_KEYS, Anvil

pytestmark = pytest.mark.anvil

SIGNER = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[0]})
NOWHERE = Deployment(31337, {}, 0, PaymentToken(NO_ADDRESS, "GPU", 18))
WATCHED = frozenset(
    str(module.__file__) for module in (gpumarket.chain.sender, gpumarket.chain.journal, gpumarket.chain.node)
)
DIED = 86


@pytest.mark.timeout(600)
def test_killed_at_every_line_then_resumed_has_one_effect(node: Anvil, tmp_path: Path) -> None:
    line = 1
    while True:
        to = checksum("0x" + keccak(line.to_bytes(4, "big"))[12:].hex())
        journal = tmp_path / f"{line}.db"
        exit_code = in_child(lambda: die_at(line, lambda: asyncio.run(deed(node.url, journal, to))))  # noqa: B023
        assert exit_code in (0, DIED)
        asyncio.run(resume_and_repeat(node.url, journal, to))
        assert int(node.rpc("eth_getBalance", to, "latest"), 16) == 1, f"died at line event {line}"
        if exit_code == 0:
            break
        line += 1
    assert line > 50


async def deed(url: str, journal: Path, to: Address) -> None:
    """What is interrupted."""
    client = await ChainClient.connect(url, NOWHERE)
    sender = Sender(client, SIGNER, journal, poll_s=0.01)
    await sender.execute("deed", Call(to, b"", 1))
    await sender.close()
    await client.close()


async def resume_and_repeat(url: str, journal: Path, to: Address) -> None:
    """What a service does after a crash."""
    client = await ChainClient.connect(url, NOWHERE)
    sender = Sender(client, SIGNER, journal, poll_s=0.01)
    await sender.resume()
    await sender.execute("deed", Call(to, b"", 1))
    await sender.close()
    await client.close()


def die_at(count: int, work: Callable[[], None]) -> None:
    """Run `work` and end the process, with no clean-up, at its `count`-th line in the watched files."""
    remaining = [count]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            remaining[0] -= 1
            if remaining[0] == 0:
                os._exit(DIED)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    work()


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child did not end")
