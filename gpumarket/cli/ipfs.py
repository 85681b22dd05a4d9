"""`gpumarket ipfs`: content by CID, in the embedded store or in Kubo."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from gpumarket import config, service
from gpumarket.errors import MarketError
from gpumarket.ipfs import car, importer, reader
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.gateway import routes
from gpumarket.ipfs.kubo import KuboStore
from gpumarket.ipfs.reader import Entry
from gpumarket.ipfs.store import BlockStore, EmbeddedStore
from gpumarket.ipfs.unixfs import Kind

app = typer.Typer(name="ipfs", help="Add, get and serve content by CID.", no_args_is_help=True)


class Output(str, Enum):
    PLAIN = "plain"
    JSON = "json"


StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the embedded store.", show_default="data home")
]
ApiOption = Annotated[str | None, typer.Option("--api", help="Use the Kubo daemon at this RPC URL instead.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
CidArgument = Annotated[str, typer.Argument(help="CIDv1 (bafy..., bafk...) or CIDv0 (Qm...), optionally with /a/path.")]


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A file or a directory.")],
    name: Annotated[str, typer.Option(help="A name for the pin.")] = "",
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = Output.PLAIN,
) -> None:
    """Add a file or directory, pin it, print its CID (profile unixfs-v1-2025)."""
    with _errors():
        blocks = _open(store, api)
        added = importer.add_path(blocks, path)
        blocks.pin(added.cid, name or path.name)
        _print(output, str(added.cid), {"cid": str(added.cid), "size": added.size})


@app.command()
def get(
    cid: CidArgument,
    dest: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = Output.PLAIN,
) -> None:
    """Write a file or directory from the store to disk, every block checked."""
    with _errors():
        blocks = _open(store, api)
        found = _find(blocks, cid)
        written = reader.export_path(blocks, found, dest)
        _print(output, str(dest), {"cid": str(found), "path": str(dest), "size": written})


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A CARv1 file, or - for standard input.")],
    pin: Annotated[bool, typer.Option(help="Pin the roots.")] = True,
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = Output.PLAIN,
) -> None:
    """Take the blocks of a CAR into the store, every block checked."""
    with _errors():
        blocks = _open(store, api)
        if str(file) == "-":
            roots = car.import_car(blocks, sys.stdin.buffer)
        else:
            with file.open("rb") as stream:
                roots = car.import_car(blocks, stream)
        for root in roots if pin else ():
            blocks.pin(root, file.name)
        _print(output, "\n".join(map(str, roots)), {"roots": [str(root) for root in roots]})


@app.command()
def export(
    cid: CidArgument,
    file: Annotated[Path, typer.Argument(help="The CARv1 file to write, or - for standard output.")],
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = Output.PLAIN,
) -> None:
    """Write content and everything under it as a CAR."""
    with _errors():
        blocks = _open(store, api)
        found = _find(blocks, cid)
        if str(file) == "-":
            car.export_car(blocks, found, sys.stdout.buffer)
            return
        partial = file.with_name(f".{file.name}.partial")
        try:
            with partial.open("xb") as out:
                count = car.export_car(blocks, found, out)
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
        _print(output, str(file), {"cid": str(found), "path": str(file), "blocks": count})


@app.command("ls")
def ls_(
    cid: CidArgument, store: StoreOption = None, api: ApiOption = None, output: OutputOption = Output.PLAIN
) -> None:
    """List a directory: CID, bytes, name."""
    with _errors():
        blocks = _open(store, api)
        entries = reader.ls(blocks, _find(blocks, cid))
        _print(output, "\n".join(map(_line, entries)), [_entry(entry) for entry in entries])


@app.command()
def pin(
    cid: Annotated[str | None, typer.Argument(help="What to pin; without it, the pins are listed.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin instead.")] = False,
    name: Annotated[str, typer.Option(help="A name for the pin.")] = "",
    store: StoreOption = None,
    api: ApiOption = None,
    output: OutputOption = Output.PLAIN,
) -> None:
    """Keep content from garbage collection, stop keeping it, or list what is kept."""
    with _errors():
        blocks = _open(store, api)
        if cid is None:
            pins = blocks.pins()
            text = "\n".join(f"{p.cid}  {p.name}".rstrip() for p in pins)
            _print(output, text, [{"cid": str(p.cid), "name": p.name} for p in pins])
            return
        root = Cid.parse(cid)
        if remove:
            blocks.unpin(root)
        else:
            blocks.pin(root, name)
        _print(output, cid, {"cid": cid, "pinned": not remove})


@app.command()
def gc(store: StoreOption = None, api: ApiOption = None, output: OutputOption = Output.PLAIN) -> None:
    """Remove blocks that no pin needs (the embedded store spares the last hour's)."""
    with _errors():
        removed = _open(store, api).gc(time.time())
        text = f"removed {removed.blocks} blocks, {removed.bytes} bytes"
        _print(output, text, {"blocks": removed.blocks, "bytes": removed.bytes})


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8480,
    store: StoreOption = None,
    api: ApiOption = None,
) -> None:
    """Serve the store over HTTP as a trustless gateway, so that hosts can fetch your image from it."""
    with _errors():
        blocks = _open(store, api)

    async def main(running: service.Service) -> None:
        running.add_http([*routes(blocks)], host=host, port=port)

    raise typer.Exit(service.run("ipfs", main))


def _open(store: Path | None, api: str | None) -> BlockStore:
    if store is not None and api is not None:
        raise MarketError("invalid_argument", "--store and --api exclude each other")
    return KuboStore(api) if api is not None else EmbeddedStore(store or config.data_home() / "ipfs")


def _find(store: BlockStore, text: str) -> Cid:
    root, _, path = text.removeprefix("/ipfs/").partition("/")
    return reader.resolve(store, Cid.parse(root), path) if path else Cid.parse(root)


def _line(entry: Entry) -> str:
    return f"{entry.cid}  {entry.size:>12}  {entry.name}{'/' if entry.kind is Kind.DIRECTORY else ''}"


def _entry(entry: Entry) -> dict[str, Any]:
    return {"cid": str(entry.cid), "size": entry.size, "name": entry.name, "kind": entry.kind.value}


def _print(output: Output, text: str, value: Any) -> None:
    if output is Output.JSON:
        typer.echo(json.dumps(value))
    elif text:
        typer.echo(text)


@contextmanager
def _errors() -> Iterator[None]:
    """Expected failures as one line and a hint on standard error, with the exit code of their kind."""
    try:
        yield
    except OSError as error:
        _fail(MarketError("invalid_argument", f"{error.filename}: {error.strerror}"))
    except MarketError as error:
        _fail(error)


def _fail(error: MarketError) -> None:
    typer.echo(f"error: {error.message} [{error.code}]", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)
    raise typer.Exit(error.kind.exit_code)
