"""What a job leaves: `/results`, the end of its output, and a report the provider signs, as one pinned tree.

The root is a UnixFS directory: `results/...`, `stdout.log`, `stderr.log`, `report.json`. Collecting the same container
twice gives the same root.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumarket.chain.deployments import Deployment
from gpumarket.chain.typed_data import job_report
from gpumarket.chain.types import Job
from gpumarket.ipfs.importer import add_path
from gpumarket.ipfs.store import BlockStore
from provider_agent.container import image_root
from provider_agent.logs import JobLog
from provider_agent.ports import Signer
from provider_agent.runtime import Container, Runtime
from provider_agent.state import JobRow

TAIL_BYTES = 1 << 20
RESULTS_PATH = "/results"
PIN_PREFIX = "results "


@dataclass(frozen=True)
class ResultsDesk:
    """Collects results.

    Attributes:
        work: folder for what is being collected; emptied at every use.
        max_bytes: the most a job may leave in `/results`.
    """

    runtime: Runtime
    store: BlockStore
    signer: Signer
    deployment: Deployment
    work: Path
    max_bytes: int

    async def collect(self, row: JobRow, job: Job, container: Container | None, log: JobLog, problem: str) -> bytes:
        """Copy out, sign, import, pin.

        Args:
            container: None if it is lost; then there is a report and no result.
            problem: error code that kept earlier attempts from copying `/results`; they are left out then.

        Returns:
            The sha2-256 digest of the root CID.

        Raises:
            MarketError: `image_too_large`, `disk_full`, `docker_unreachable`, `docker_failed`.
        """
        folder = self.work / row.job_id
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True)
        size = 0
        if container is not None and not problem:
            size = await self.runtime.copy_out(container.id, RESULTS_PATH, folder / "results", self.max_bytes)
        facts = _facts(row, job, container, size, problem)
        return await asyncio.to_thread(self._import, folder, row, facts, log)

    def _import(self, folder: Path, row: JobRow, facts: Mapping[str, Any], log: JobLog) -> bytes:
        outputs = {f"{stream}.log": log.tail(stream, TAIL_BYTES) for stream in ("stdout", "stderr")}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in outputs.items()}
        report = {
            **facts,
            "chainId": self.deployment.chain_id,
            "marketplace": self.deployment.addresses["Marketplace"],
            "provider": self.signer.address,
            "sha256": digests,
        }
        digest = hashlib.sha256(canonical(report)).digest()
        signature = self.signer.sign_typed(job_report(self.deployment, row.job_id, digest))
        document = {"report": report, "signature": "0x" + signature.hex()}
        for name, data in outputs.items():
            (folder / name).write_bytes(data)
        (folder / "report.json").write_bytes(json.dumps(document, sort_keys=True, indent=2).encode() + b"\n")
        added = add_path(self.store, folder)
        self.store.pin(added.cid, PIN_PREFIX + row.job_id)
        shutil.rmtree(folder, ignore_errors=True)
        return added.cid.digest


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: what gets hashed and signed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _facts(row: JobRow, job: Job, container: Container | None, size: int, problem: str) -> dict[str, Any]:
    return {
        "v": 1,
        "jobId": row.job_id,
        "resourceId": row.resource_id,
        "image": str(image_root(row)),
        "manifest": row.manifest,
        "reason": row.reason,
        "clockStartedAt": job.started_at,
        "exitCode": None if container is None else container.exit_code,
        "outOfMemory": container is not None and container.oom_killed,
        "stoppedByHost": "" if container is None else container.stop_reason,
        "startedAt": None if container is None else container.started_at,
        "finishedAt": None if container is None else container.finished_at,
        "resultsBytes": size,
        "problem": problem,
    }
