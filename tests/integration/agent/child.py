"""The agent in a process of its own, built as in production, that dies at a named point if it is told to.

`python -m tests.integration.agent.child CONFIG [POINT]`: kills itself, as `kill -9` would, when it reaches POINT.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from gpumarket import config
from provider_agent.app import run_agent
from provider_agent.settings import Settings


def die_at(point: str) -> None:
    if len(sys.argv) > 2 and point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(run_agent(config.load(Settings, "agent", file=Path(sys.argv[1])), fault=die_at))
