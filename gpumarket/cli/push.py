"""`gpumarket push`: needs neither chain nor key."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, State, state_of
from gpumarket.images.push import push as push_image
from gpumarket.ipfs.store import EmbeddedStore

app = typer.Typer()

_COLUMNS = (
    Column("image", "root"),
    Column("manifest", "manifest_digest"),
    Column("size", "size", lambda size: f"{int(size):,} bytes"),
    Column("blobs", "blobs"),
)


@app.command()
def push(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="An image of the local Docker Engine, an OCI layout folder, or a tar.")],
    output: OutputOption = None,
) -> None:
    """Put a container image into your content store as an OCI layout; prints its root CID, which `rent` takes.

    Hosts fetch it from `gpumarket ipfs serve`; name that address in `store_url` or with `rent --source`.
    """
    state = state_of(context, output)
    store = EmbeddedStore(state.settings().store)
    pushed = push_image(source, store, progress_to_stderr(state))
    store.pin(pushed.root, source)
    row = {
        "root": str(pushed.root),
        "manifest_digest": pushed.manifest_digest,
        "size": pushed.size,
        "blobs": pushed.blobs,
    }
    state.printer.record(row, _COLUMNS)


def progress_to_stderr(state: State, every_s: float = 0.5) -> Progress:
    """A progress sink that writes a line at most every `every_s` seconds."""
    return Progress(state, every_s)


class Progress:
    """Counts bytes; callable as `(done, total or None)`."""

    def __init__(self, state: State, every_s: float) -> None:
        self._state = state
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._last < self._every_s:
            return
        self._last = now
        part = f" of {total / 1e6:.1f}" if total else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(f"{done / 1e6:.1f}{part} MB{end}")
        sys.stderr.flush()
