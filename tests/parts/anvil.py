"""A throwaway EVM node for a test."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The node's published development mnemonic; these keys exist on development chains only.
ANVIL_KEYS = (
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Anvil:
    url: str
    process: subprocess.Popen[bytes]

    def rpc(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call; a JSON-RPC error raises RuntimeError."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def receipt(self, tx_hash: str) -> Any:
        """The receipt of a transaction, once its block is there: that may be a moment after it was sent."""
        deadline = time.monotonic() + 20
        while (found := self.rpc("eth_getTransactionReceipt", tx_hash)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{tx_hash} is not mined")
            time.sleep(0.02)
        return found

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def travel(self, seconds: int) -> None:
        """Move the chain's clock forward and mine a block there."""
        self.rpc("evm_increaseTime", seconds)
        self.mine()


@contextlib.contextmanager
def anvil(
    *, block_time: float | None = None, state: Path | None = None, port: int | None = None, slots: int | None = None
) -> Iterator[Anvil]:
    """Start a node, wait until it answers, stop it at the end.

    Args:
        block_time: seconds between blocks; None mines a block per transaction.
        state: a file written by `--dump-state` to start from.
        slots: blocks in an epoch: `safe` lags the newest block by one epoch, `finalized` by two.
    """
    program = shutil.which("anvil")
    if program is None:
        raise RuntimeError("anvil is not on PATH: run the tests by `make test`, or `. scripts/env.sh` first")
    port = port or free_port()
    command = [program, "--port", str(port), "--silent"]
    if block_time is not None:
        command += ["--block-time", str(block_time)]
    if slots is not None:
        command += ["--slots-in-an-epoch", str(slots)]
    if state is not None:
        command += ["--load-state", str(state)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    node = Anvil(f"http://127.0.0.1:{port}", process)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                node.rpc("eth_chainId")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("anvil did not start") from None
                time.sleep(0.05)
        yield node
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
