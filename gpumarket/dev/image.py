"""The demo's image: a real one, built from nothing but a static busybox, whose answer can be checked."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumarket.dev import tools

RUN_LABEL = "gpumarket.dev"
_DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
COPY work.sh /work.sh
ENTRYPOINT ["/bin/busybox", "sh", "/work.sh"]
"""


@dataclass(frozen=True)
class Task:
    """What the container is asked to compute; the seed is new in every run, so the answer cannot be in the image.

    Attributes:
        limit: primes below it are counted.
        parts: progress lines; about a second each.
        rounds: hashes per part.
    """

    seed: str
    limit: int = 20_000
    parts: int = 10
    rounds: int = 40

    def environ(self) -> dict[str, str]:
        return {"SEED": self.seed, "LIMIT": str(self.limit), "PARTS": str(self.parts), "ROUNDS": str(self.rounds)}

    def answer(self) -> dict[str, Any]:
        """The right answer, computed here by other means: a sieve and hashlib."""
        text = self.seed
        for _ in range(self.parts * self.rounds):
            text = hashlib.sha256(text.encode()).hexdigest()
        return {"seed": self.seed, "limit": self.limit, "primes": _primes_below(self.limit), "hash": text}


def write_context(folder: Path) -> None:
    """The build context: Dockerfile, busybox, the work."""
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    shutil.copyfile(tools.busybox(), folder / "busybox")
    (folder / "busybox").chmod(0o755)
    shutil.copyfile(Path(__file__).with_name("work.sh"), folder / "work.sh")


def build_command(tag: str, run_id: str, folder: Path) -> tuple[str, ...]:
    """`docker build`, with the label by which everything of this run is found again."""
    return (tools.docker(), "build", "--quiet", "--label", f"{RUN_LABEL}={run_id}", "--tag", tag, str(folder))


def read_answer(results: Path) -> dict[str, Any]:
    """What the container wrote to its /results; `results` is the whole tree that was pulled."""
    answer: dict[str, Any] = json.loads((results / "results" / "answer.json").read_text())
    return answer


def _primes_below(limit: int) -> int:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve)
