"""The bundle behind a report: its outcomes and the transcripts that prove them; the same CIDs wherever it is built.

```
<root>/outcomes.json
<root>/<index>/outcome.json            the outcome, without its own evidence digest
<root>/<index>/<challenge id>.json     a transcript
<root>/<index>/<challenge id>.car      the blocks that prove it
```
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpumarket.chain.types import Outcome
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import Added, add_directory, add_file
from gpumarket.ipfs.store import BlockStore
from oracle.verdict import Draft


@dataclass(frozen=True)
class Bundle:
    """A built bundle: its root, and the drafts with their evidence digests filled in."""

    root: Cid
    drafts: tuple[Draft, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(draft.outcome for draft in self.drafts)


def build(store: BlockStore, drafts: Sequence[Draft]) -> Bundle:
    """Write the bundle into `store`, unpinned. Deterministic: equal drafts give equal CIDs."""
    entries: dict[str, Added] = {}
    finished: list[Draft] = []
    for index, draft in enumerate(drafts):
        folder = _folder(store, draft)
        entries[str(index)] = folder
        finished.append(replace(draft, outcome=replace(draft.outcome, evidence=folder.cid.digest)))
    outcomes = [outcome_dict(draft.outcome) for draft in finished]
    entries["outcomes.json"] = _file(store, _json(outcomes))
    return Bundle(add_directory(store, entries).cid, tuple(finished))


def root_cid(digest: bytes) -> Cid:
    """The bundle's root from the digest a report carries."""
    return Cid.dag_pb(digest)


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON; numbers that may be large as decimal text."""
    return {
        "kind": outcome.kind.name,
        "jobId": outcome.job_id,
        "provider": outcome.provider,
        "from": outcome.from_,
        "to": outcome.to,
        "value": str(outcome.value),
        "evidence": "0x" + outcome.evidence.hex(),
    }


def _folder(store: BlockStore, draft: Draft) -> Added:
    bare = {k: v for k, v in outcome_dict(draft.outcome).items() if k != "evidence"}
    files = {"outcome.json": _file(store, _json(bare))}
    for transcript in draft.transcripts:
        name = transcript.challenge.challenge_id
        files[f"{name}.json"] = _file(store, _json(transcript.as_dict()))
        if transcript.answer is not None:
            files[f"{name}.car"] = _file(store, transcript.answer.car)
    return add_directory(store, files)


def _file(store: BlockStore, content: bytes) -> Added:
    return add_file(store, io.BytesIO(content))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
