"""A process that outlives its parent only to clean up after it.

The parent writes what it starts to this process's standard input (see `Leftovers.apply`). When the pipe closes, however
the parent died, everything named is stopped and removed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import IO

from gpumarket.dev.leftovers import Leftovers


class Reaper:
    """The parent's end of the pipe, and its own account of the same things."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "gpumarket.dev.reaper"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        self.leftovers = Leftovers()

    def tell(self, line: str) -> None:
        self.leftovers.apply(line)
        pipe = self._pipe()
        pipe.write(line + "\n")
        pipe.flush()

    def close(self, timeout_s: float) -> None:
        """Close the pipe and wait until the reaper has removed whatever was left."""
        self._pipe().close()
        self._process.wait(timeout_s)

    def _pipe(self) -> IO[str]:
        if self._process.stdin is None:
            raise RuntimeError("the reaper was started without a pipe")
        return self._process.stdin


def main() -> None:
    """Read until the pipe closes, then clean."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leftovers = Leftovers()
    for line in sys.stdin:
        leftovers.apply(line)
    leftovers.clean()


if __name__ == "__main__":
    main()
