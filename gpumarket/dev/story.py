"""How the demo tells what it does: numbered steps, the commands as a user would type them, their output as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from gpumarket.dev import tools
from gpumarket.dev.market import LocalMarket
from gpumarket.dev.process import ChildSpec

_STEPS = 9


@dataclass
class Story:
    """Writes to `out`, every line with the seconds since the start."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    started: float = field(default_factory=time.monotonic)

    def step(self, number: int, title: str) -> None:
        self._write(f"\n[{self.elapsed:6.1f} s] {number}/{_STEPS} {title}")

    def say(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"[{self.elapsed:6.1f} s]     {line}")

    def command(self, text: str) -> None:
        self.say(f"$ {text}")

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def _write(self, line: str) -> None:
        self.out.write(line + "\n")
        self.out.flush()


@dataclass
class Renter:
    """A renter at a terminal: runs `gpumarket` commands of its own."""

    market: LocalMarket
    story: Story

    async def run(self, *arguments: str, timeout_s: float = 120.0) -> Any:
        """Run a command with `--output json`; what it printed. Its notes appear as they come."""
        text = await self.market.supervisor.run(
            self._spec((*arguments, "--output", "json")), on_stderr=self.story.say, timeout_s=timeout_s
        )
        return json.loads(text)

    async def watch(self, *arguments: str, timeout_s: float) -> list[str]:
        """Run a command whose output is a stream; its lines."""
        text = await self.market.supervisor.run(
            self._spec(arguments), on_stderr=self.story.say, on_stdout=self.story.say, timeout_s=timeout_s
        )
        return text.splitlines()

    async def docker(self, *command: str) -> str:
        """Run docker to its end, also when cancelled: the engine goes on with a build whose client is gone."""
        spec = ChildSpec("docker", command, self.market.environ, self.market.places.log("docker"))
        work = asyncio.ensure_future(self.market.supervisor.run(spec, timeout_s=120))
        try:
            return await asyncio.shield(work)
        finally:
            while not work.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({work})

    def _spec(self, arguments: tuple[str, ...]) -> ChildSpec:
        self.story.command(f"gpumarket {' '.join(arguments)}")
        environ = {**self.market.environ, "GPUMARKET_CONFIG": str(self.market.places.renter_config)}
        return ChildSpec("renter", (*tools.gpumarket(), *arguments), environ, self.market.places.log("renter"))
