"""`gpumarket ipfs`: content by CID, in the embedded store or in Kubo."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gpumarket import service
from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, State, state_of
from gpumarket.errors import MarketError
from gpumarket.ipfs import car, importer, reader
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.gateway import routes
from gpumarket.ipfs.kubo import KuboStore
from gpumarket.ipfs.reader import Entry
from gpumarket.ipfs.store import BlockStore, EmbeddedStore, Pin

app = typer.Typer(no_args_is_help=True, help="Content by its CID: add, get, import, export, ls, pin, gc, serve.")

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the embedded store; default: the one `push` fills.")
]
ApiOption = Annotated[str | None, typer.Option("--api", help="Use the Kubo daemon at this RPC address instead.")]
PathArgument = Annotated[str, typer.Argument(metavar="CID[/PATH]", help="CIDv1 (bafy..., bafk...) or CIDv0 (Qm...).")]
NameOption = Annotated[str, typer.Option("--name", help="A name for the pin.")]

_ADDED = (Column("cid", "cid"),)
_WRITTEN = (Column("cid", "cid"), Column("path", "path"), Column("size", "size"))
_ROOTS = (Column("root", "cid"),)
_EXPORTED = (Column("cid", "cid"), Column("path", "path"), Column("blocks", "blocks"))
_ENTRIES = (Column("cid", "cid"), Column("size", "size", right=True), Column("kind", "kind"), Column("name", "name"))
_PINS = (Column("cid", "cid"), Column("name", "name"))
_REMOVED = (Column("blocks removed", "blocks"), Column("bytes removed", "bytes"))


@app.command()
def add(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file or a directory.")],
    name: NameOption = "",
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """Add a file or directory, pin it, print its CID (profile unixfs-v1-2025)."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    added = importer.add_path(blocks, path)
    blocks.pin(added.cid, name or path.name)
    state.printer.record({"cid": str(added.cid), "size": added.size}, _ADDED)


@app.command()
def get(
    context: typer.Context,
    cid: PathArgument,
    dest: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """Write a file or directory from the store to disk, every block checked."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    found = _find(blocks, cid)
    written = reader.export_path(blocks, found, dest)
    state.printer.record({"cid": str(found), "path": str(dest), "size": written}, _WRITTEN)


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A CARv1 file, or - for standard input.")],
    pin: Annotated[bool, typer.Option(help="Pin the roots.")] = True,
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """Take the blocks of a CAR into the store, every block checked."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    if str(file) == "-":
        roots = car.import_car(blocks, sys.stdin.buffer)
    else:
        with _file_errors(), file.open("rb") as stream:
            roots = car.import_car(blocks, stream)
    for root in roots if pin else ():
        blocks.pin(root, file.name)
    state.printer.rows([{"cid": str(root), "pinned": pin} for root in roots], _ROOTS, empty="the CAR names no root")


@app.command()
def export(
    context: typer.Context,
    cid: PathArgument,
    file: Annotated[Path, typer.Argument(help="The CARv1 file to write, or - for standard output.")],
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """Write content and everything under it as a CAR."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    found = _find(blocks, cid)
    if str(file) == "-":
        car.export_car(blocks, found, sys.stdout.buffer)
        return
    partial = file.with_name(f".{file.name}.partial")
    with _file_errors():
        try:
            with partial.open("wb") as out:
                count = car.export_car(blocks, found, out)
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
    state.printer.record({"cid": str(found), "path": str(file), "blocks": count}, _EXPORTED)


@app.command("ls")
def ls_(
    context: typer.Context,
    cid: PathArgument,
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """List a directory."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    state.printer.rows([_entry(entry) for entry in reader.ls(blocks, _find(blocks, cid))], _ENTRIES, empty="empty")


@app.command()
def pin(
    context: typer.Context,
    cid: Annotated[str | None, typer.Argument(help="What to pin; without it, the pins are listed.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin instead.")] = False,
    name: NameOption = "",
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = None,
) -> None:
    """Keep content from garbage collection, stop keeping it, or list what is kept."""
    state = state_of(context, output)
    blocks = _open(state, store, api)
    if cid is None:
        state.printer.rows([_pin(kept) for kept in blocks.pins()], _PINS, empty="nothing is pinned")
        return
    root = Cid.parse(cid)
    if remove:
        blocks.unpin(root)
    else:
        blocks.pin(root, name)
    state.printer.record({**_pin(Pin(root, name)), "pinned": not remove}, _PINS)


@app.command()
def gc(context: typer.Context, store: StoreOption = None, api: ApiOption = None, output: OutputOption = None) -> None:
    """Remove blocks that no pin needs. The embedded store spares what was added within the last hour."""
    state = state_of(context, output)
    removed = _open(state, store, api).gc(time.time())
    state.printer.record({"blocks": removed.blocks, "bytes": removed.bytes}, _REMOVED)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8480,
    store: StoreOption = None,
    api: ApiOption = None,
) -> None:
    """Serve the store over HTTP as a trustless gateway, so that hosts can fetch your images from it."""
    blocks = _open(state_of(context), store, api)

    async def main(running: service.Service) -> None:
        running.add_http([*routes(blocks)], host=host, port=port)

    raise typer.Exit(service.run("ipfs", main))


def _open(state: State, store: Path | None, api: str | None) -> BlockStore:
    if store is not None and api is not None:
        raise MarketError("invalid_argument", "--store and --api exclude each other")
    return KuboStore(api) if api is not None else EmbeddedStore(store or state.settings().store)


def _find(store: BlockStore, text: str) -> Cid:
    root, _, path = text.removeprefix("/ipfs/").partition("/")
    return reader.resolve(store, Cid.parse(root), path) if path else Cid.parse(root)


def _entry(entry: Entry) -> dict[str, Any]:
    return {"cid": str(entry.cid), "size": entry.size, "kind": entry.kind.value, "name": entry.name}


def _pin(pin: Pin) -> dict[str, Any]:
    return {"cid": str(pin.cid), "name": pin.name}


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MarketError("invalid_argument", f"{error.filename}: {error.strerror}") from error
