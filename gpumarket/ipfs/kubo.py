"""Kubo as the block store, through ipfshttpclient. The only file that knows that library.

`ipfshttpclient.connect` refuses every current daemon, `Client` does not. Kubo's own `add` is never used: our importer
computes the blocks, so that CIDs cannot depend on the daemon's configuration, and everything read back is hashed again.
All calls are made offline: this is a store, and a block it does not have must not start a search of the network.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ipfshttpclient
from ipfshttpclient import exceptions

from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import DAG_PB, Cid
from gpumarket.ipfs.importer import ByteStream
from gpumarket.ipfs.store import Collected, Pin, mark

MINIMUM_VERSION = (0, 43)


class KuboStore:
    """A Kubo daemon's blocks and pins.

    Args:
        api_url: the RPC address, e.g. `http://127.0.0.1:5001`. Never expose it: whoever reaches it owns the daemon.
        timeout_s: for each call.

    Raises:
        MarketError: `ipfs_unreachable`; `machine_unsuitable` for a daemon older than 0.43.
    """

    def __init__(self, api_url: str, *, timeout_s: float = 60.0) -> None:
        self._address = _multiaddr(api_url)
        self._api_url = api_url
        self._timeout_s = timeout_s
        self._clients = threading.local()
        # The library passes urllib3 an argument that is about to go; nobody who runs gpumarket can act on that.
        warnings.filterwarnings("ignore", message="The 'strict' parameter", category=FutureWarning)
        with self._call() as client:
            text = str(client.version()["Version"])
        if tuple(int(part) for part in text.split("-")[0].split(".")[:2]) < MINIMUM_VERSION:
            raise MarketError("machine_unsuitable", f"Kubo {text} is too old", hint="use Kubo 0.43 or newer")

    def get(self, cid: Cid) -> bytes | None:
        try:
            with self._call() as client:
                block = bytes(client.block.get(str(cid)))
        except MarketError as error:
            if error.code == "not_found":
                return None
            raise
        if not cid.matches(block):
            raise MarketError("image_block_corrupt", f"Kubo answered wrong bytes for {cid}", cid=str(cid))
        return block

    def put(self, cid: Cid, block: bytes) -> None:
        options = {"cid-codec": "dag-pb" if cid.codec == DAG_PB else "raw", "mhtype": "sha2-256", "pin": "false"}
        with self._call() as client:
            client.block.put(io.BytesIO(block), opts=options)

    def has(self, cid: Cid) -> bool:
        try:
            with self._call() as client:
                client.block.stat(str(cid))
            return True
        except MarketError as error:
            if error.code == "not_found":
                return False
            raise

    def pin(self, cid: Cid, name: str = "") -> None:
        # Kubo's own pin call ignores that it is offline and waits for a missing block until the timeout.
        mark(self, cid, set(), leaves=True)
        with self._call() as client:
            client.pin.add(str(cid), opts={"name": name} if name else {})

    def unpin(self, cid: Cid) -> None:
        try:
            with self._call() as client:
                client.pin.rm(str(cid))
        except MarketError as error:
            if error.code != "not_found":
                raise

    def pins(self) -> tuple[Pin, ...]:
        with self._call() as client:
            keys: dict[str, dict[str, str]] = client.pin.ls(type="recursive", opts={"names": "true"}).get("Keys") or {}
        usable = {text: entry for text, entry in sorted(keys.items()) if _is_ours(text)}
        return tuple(Pin(Cid.parse(text), entry.get("Name", "")) for text, entry in usable.items())

    def gc(self, now: float) -> Collected:
        """As the protocol says, but Kubo knows no grace time: do not collect while something is being added."""
        with self._call() as client:
            before = int(client.repo.stat()["RepoSize"])
            removed = client.repo.gc()
            after = int(client.repo.stat()["RepoSize"])
        return Collected(len(removed or []), max(0, before - after))

    def import_car(self, stream: ByteStream) -> None:
        """Let Kubo read a CAR itself: one request instead of one per block. Nothing is pinned."""
        with self._call() as client:
            # Without statistics the daemon would answer nothing at all, which the library takes for an error.
            client.dag.imprt(stream, opts={"pin-roots": "false", "stats": "true"})

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """This thread's client; the library's errors become ours. A block or pin that is not there is `not_found`."""
        try:
            if not hasattr(self._clients, "client"):
                # One session per thread: requests' sessions are not safe to share.
                self._clients.client = ipfshttpclient.Client(
                    self._address, session=True, offline=True, timeout=self._timeout_s
                )
            yield self._clients.client
        except exceptions.ErrorResponse as error:
            text = str(error)
            if "not found" in text or "could not find" in text or "not pinned" in text:
                raise MarketError("not_found", f"Kubo: {text}") from error
            full = "no space left" in text
            raise MarketError("disk_full" if full else "ipfs_unreachable", f"Kubo refused: {text}") from error
        except exceptions.Error as error:
            raise MarketError(
                "ipfs_unreachable",
                f"Kubo does not answer at {self._api_url}: {error}",
                hint="is `ipfs daemon` running?",
            ) from error


def _multiaddr(api_url: str) -> str:
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MarketError(
            "invalid_argument", f"not the URL of a Kubo API: {api_url!r}", hint="e.g. http://127.0.0.1:5001"
        )
    host = parts.hostname
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{parts.port or 5001}/{parts.scheme}"


def _is_ours(text: str) -> bool:
    try:
        Cid.parse(text)
        return True
    except MarketError:
        return False
