"""Puts known faults into the contracts, one at a time, and demands that the Forge suite finds each.

Every fault is (file, old, new); `old` must occur exactly once. The tests run on copies, two at a time; nothing in the
working tree changes. The exit code is 1 if a fault survived, 2 if one no longer applies.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
TIMEOUT_S = 600


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in a file of contracts/."""

    file: str
    old: str
    new: str


BASE = "MarketBase.sol"
MARKET = "Marketplace.sol"
RARE = "MarketExceptions.sol"
ESCROW = "PaymentEscrow.sol"
REGISTRY = "ResourceRegistry.sol"
VAULT = "StakeVault.sol"
COMMITTEE = "OracleCommittee.sol"
REPUTATION = "ReputationSystem.sol"
MONEY = "libraries/Settlement.sol"

FAULTS = (
    # Rounding and limits of money
    Fault(MONEY, "Math.ceilDiv(pricePerHour * duration, HOUR)", "(pricePerHour * duration) / HOUR"),
    Fault(MONEY, "return (pricePerHour * billed) / HOUR;", "return Math.ceilDiv(pricePerHour * billed, HOUR);"),
    Fault(MONEY, "return (amount * feeBps) / BPS;", "return Math.ceilDiv(amount * feeBps, BPS);"),
    Fault(MONEY, "toProvider = amount / 2;", "toProvider = amount - amount / 2;"),
    Fault(MONEY, "Math.min(Math.max(proven, minSeconds), duration)", "Math.max(proven, minSeconds)"),
    Fault(MONEY, "Math.min(Math.max(proven, minSeconds), duration)", "Math.min(proven, duration)"),
    Fault(MONEY, "if (startedAt == 0) return 0;", ""),
    # The clock
    Fault(BASE, "if (block.timestamp >= deadline) revert", "if (block.timestamp > deadline) revert"),
    Fault(BASE, "if (block.timestamp < deadline) revert", "if (block.timestamp <= deadline) revert"),
    Fault(BASE, "if (course.deadAt != 0) stop = Math.min(stop, course.deadAt);", ""),
    Fault(BASE, "if (course.reclaimAt != 0) stop = Math.min(stop, course.reclaimAt);", ""),
    Fault(BASE, "Math.min(timestamp, uint256(startedAt) + job.duration)", "timestamp"),
    Fault(BASE, "course.deadAt == 0 && course.reclaimAt == 0 ? uint32(memo) : 0", "uint32(memo)"),
    Fault(BASE, "if (block.timestamp < deadline) {\n            if (strict)", "if (false) {\n            if (strict)"),
    Fault(BASE, "if (course.reclaimAt != 0 || block.timestamp >= endsAt)", "if (block.timestamp >= endsAt)"),
    # Who may, and when
    Fault(BASE, "if (msg.sender != user) revert", "if (false) revert"),
    Fault(BASE, "if (msg.sender != provider) revert", "if (false) revert"),
    Fault(BASE, "if (job.status != status) revert", "if (false) revert"),
    Fault(BASE, "if (job.flags & PAID != 0) {", "if (false) {"),
    Fault(BASE, "job.settledSeconds = uint32(billed);", ""),
    Fault(BASE, "if (gasleft() < RECORD_GAS + RECORD_GAS / 32)", "if (false)"),
    Fault(BASE, "_storage().unrecorded[jobId] = uint8(outcome) + 1;", "_storage().unrecorded[jobId] = uint8(outcome);"),
    Fault(BASE, "|| status == IMarketplace.JobStatus.Running;", ";"),
    Fault(MARKET, "if (_isActive(previous)) revert ResourceBusy(resourceId, previous);", ""),
    Fault(MARKET, "if (!terms.available) revert ResourceUnavailable(resourceId);", ""),
    Fault(MARKET, "duration > terms.maxSeconds", "false"),
    Fault(MARKET, "if (terms.pricePerHour > request.maxPricePerHour)", "if (false)"),
    Fault(MARKET, "if (stakeVault.isBonded(provider, number)) return;", "return;"),
    Fault(MARKET, "if (offer.resourceId != request.resourceId)", "if (false)"),
    Fault(MARKET, "if (newFeeBps > maximum)", "if (newFeeBps > 10_000)"),
    Fault(RARE, "if (msg.sender != committee)", "if (false)"),
    Fault(RARE, "course.endedAt = endedAt;", ""),
    Fault(RARE, "Math.max(job.startedAt, course.outageEnd)", "job.startedAt"),
    Fault(RARE, "if (block.timestamp + RENEWAL_LEAD < endsAt)", "if (false)"),
    Fault(RARE, "notice == 0 || reclaimAt >= _clockAt(job, course, type(uint40).max)", "notice == 0"),
    Fault(RARE, "_storage().unrecorded[jobId] = 0;", ""),
    # Escrow, bonds, offers, committee
    Fault(ESCROW, "if (msg.sender != marketplace)", "if (false)"),
    Fault(ESCROW, "record.locked = keep;", ""),
    Fault(ESCROW, "record.locked = locked - amount;", ""),
    Fault(ESCROW, "_balances[index][msg.sender] = balance - amount;", ""),
    Fault(ESCROW, "if (received != amount)", "if (false)"),
    Fault(ESCROW, "if (feeBps > MAX_FEE_BPS)", "if (false)"),
    Fault(VAULT, "if (block.timestamp < until)", "if (false)"),
    Fault(VAULT, "bond.pending = pending - uint128(taken - fromActive);", ""),
    Fault(VAULT, ".active >= resources * stakePerResource", ".active > resources * stakePerResource"),
    Fault(REGISTRY, "if (block.timestamp > offer.validUntil)", "if (false)"),
    Fault(REGISTRY, "if (offer.epoch != _storage().offerEpochs[provider])", "if (false)"),
    Fault(REGISTRY, "if (!resource.restricted) return;", "return;"),
    Fault(REGISTRY, "if (_providerOf(resourceId) != msg.sender)", "if (false)"),
    Fault(COMMITTEE, "if (report.seq <= $.latestSeq)", "if (report.seq < $.latestSeq)"),
    Fault(COMMITTEE, "if (word & bit != 0)", "if (false)"),
    Fault(COMMITTEE, "if (outcome.kind != expected)", "if (false)"),
    Fault(COMMITTEE, "signer != $.members[i].signer", "false"),
    Fault(
        REPUTATION, "if (outcome == JobOutcome.Completed) record.successfulJobs += 1;", "record.successfulJobs += 1;"
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose file or text contains this")
    only = parser.parse_args().only
    chosen = [fault for fault in FAULTS if only in f"{fault.file} {fault.old}"]
    gone = [fault for fault in chosen if (ROOT / "contracts" / fault.file).read_text().count(fault.old) != 1]
    for fault in gone:
        print(f"does not apply: {fault.file}: {fault.old}")
    if gone:
        return 2
    survivors = 0
    with workplaces() as places, ThreadPoolExecutor(WORKERS) as pool:
        for fault, found in pool.map(lambda fault: (fault, killed(places, fault)), chosen):
            survivors += not found
            print(f"{'killed  ' if found else 'SURVIVED'} {fault.file}: {fault.old.splitlines()[0]}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults found")
    return 1 if survivors else 0


class Places:
    """Copies of the project, each used by one thread at a time."""

    def __init__(self, folders: list[Path]) -> None:
        self._free = folders
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Path]:
        with self._lock:
            folder = self._free.pop()
        try:
            yield folder
        finally:
            with self._lock:
                self._free.append(folder)


@contextmanager
def workplaces() -> Iterator[Places]:
    """As many copies as workers, compiled."""
    with tempfile.TemporaryDirectory(prefix="gpumarket-mutants-") as parent:
        folders = [Path(parent) / str(number) for number in range(WORKERS)]
        for folder in folders:
            for name in ("contracts", "scripts", "tests/forge", "out", "cache"):
                if (ROOT / name).exists():
                    shutil.copytree(ROOT / name, folder / name)
            shutil.copy(ROOT / "foundry.toml", folder)
            (folder / "node_modules").symlink_to((ROOT / "node_modules").resolve())
        yield Places(folders)


def killed(places: Places, fault: Fault) -> bool:
    """Whether the suite fails with the fault in place. A fault that does not compile is no fault: RuntimeError."""
    with places.one() as folder:
        path = folder / "contracts" / fault.file
        sound = path.read_text()
        path.write_text(sound.replace(fault.old, fault.new))
        try:
            build = _forge(folder, "build")
            if build.returncode:
                raise RuntimeError(f"{fault} does not compile:\n{build.stdout[-2000:]}")
            return _forge(folder, "test", "--fail-fast").returncode != 0
        finally:
            path.write_text(sound)


def _forge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["forge", *arguments],
        cwd=folder,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


if __name__ == "__main__":
    sys.exit(main())
