"""The read-only registry through which the host's own Docker Engine takes images out of the block store.

The pull half of the OCI distribution specification
(https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md). Only images the agent has approved are
served, under the name `ipfs/<root CID>`; every block is checked against its CID as it is read. Serve it on loopback
alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from gpumarket.errors import MarketError
from gpumarket.images.image import INDEXES, MANIFESTS, MAX_JSON_BYTES, OCI_MANIFEST, read_blob, read_image
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.reader import resolve, stat, stream_file
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import Kind

Allowed = Callable[[Cid], bool]
"""Whether the agent has approved the image with this root."""

_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def routes(store: BlockStore, allowed: Allowed) -> list[BaseRoute]:
    """`/v2/`, manifests by digest or `latest`, and blobs with ranges."""

    def base(_: Request) -> Response:
        return JSONResponse({}, headers=_VERSION)

    def manifest(request: Request) -> Response:
        return _manifest(store, _root(request, allowed), request.path_params["reference"], request.method == "HEAD")

    def blob(request: Request) -> Response:
        root = _root(request, allowed)
        range_header = request.headers.get("range", "")
        return _blob(store, root, request.path_params["digest"], range_header, request.method == "HEAD")

    def unknown(_: Request) -> Response:
        raise _Refusal(404, "NAME_UNKNOWN", "there is nothing here; images are named ipfs/<CID>")

    table = {
        "/v2/": base,
        "/v2/ipfs/{cid}/manifests/{reference}": manifest,
        "/v2/ipfs/{cid}/blobs/{digest}": blob,
        "/v2/{rest:path}": unknown,
    }
    return [Route(path, _guarded(handler), methods=_ANY_METHOD) for path, handler in table.items()]


class _Refusal(Exception):
    """An error as the specification writes it."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


def _guarded(handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Starlette runs this in a thread, since it is no coroutine: the store blocks."""

    def guarded(request: Request) -> Response:
        try:
            if request.method not in ("GET", "HEAD"):
                raise _Refusal(405, "UNSUPPORTED", "this registry is read-only", {"Allow": "GET, HEAD"})
            return handler(request)
        except _Refusal as refusal:
            body = {"errors": [{"code": refusal.code, "message": refusal.message, "detail": {}}]}
            return JSONResponse(body, refusal.status, {**_VERSION, **refusal.headers})

    return guarded


def _root(request: Request, allowed: Allowed) -> Cid:
    try:
        root = Cid.parse(request.path_params["cid"])
    except MarketError as error:
        raise _Refusal(400, "NAME_INVALID", error.message) from error
    if not allowed(root):
        raise _Refusal(404, "NAME_UNKNOWN", f"the image {root} is not approved for this host")
    return root


def _manifest(store: BlockStore, root: Cid, reference: str, head: bool) -> Response:
    try:
        digest = read_image(store, root).manifest_digest if reference == "latest" else reference
        if not _DIGEST.fullmatch(digest):
            raise _Refusal(404, "MANIFEST_UNKNOWN", f"there is no tag {reference!r}; the only tag is latest")
        data = read_blob(store, root, "blobs/sha256/" + digest.removeprefix("sha256:"), MAX_JSON_BYTES)
    except MarketError as error:
        raise _Refusal(404, "MANIFEST_UNKNOWN", error.message) from error
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise _Refusal(404, "MANIFEST_UNKNOWN", f"{digest} has other bytes than its digest says")
    headers = {
        **_VERSION,
        "Content-Type": _manifest_type(data, digest),
        "Content-Length": str(len(data)),
        "Docker-Content-Digest": digest,
    }
    return Response(b"" if head else data, headers=headers)


def _manifest_type(data: bytes, digest: str) -> str:
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document["schemaVersion"] == 2:
            # OCI lets a manifest leave its own type out; an index must then show its list.
            media_type = document.get("mediaType", OCI_MANIFEST if "layers" in document else "")
            if media_type in INDEXES | MANIFESTS:
                return str(media_type)
    except (ValueError, KeyError, RecursionError):
        pass
    raise _Refusal(404, "MANIFEST_UNKNOWN", f"{digest} is no manifest")


def _blob(store: BlockStore, root: Cid, digest: str, range_header: str, head: bool) -> Response:
    if not _DIGEST.fullmatch(digest):
        raise _Refusal(400, "DIGEST_INVALID", f"{digest[:80]!r} is not sha256:<64 hex>")
    try:
        cid = resolve(store, root, "blobs/sha256/" + digest.removeprefix("sha256:"))
        node = stat(store, cid)
    except MarketError as error:
        raise _Refusal(404, "BLOB_UNKNOWN", error.message) from error
    if node.kind is not Kind.FILE:
        raise _Refusal(404, "BLOB_UNKNOWN", f"{digest} is no blob")
    wanted = _range(range_header, node.size)
    start, end = wanted or (0, node.size)
    headers = {
        **_VERSION,
        "Content-Type": "application/octet-stream",
        "Content-Length": str(end - start),
        "Docker-Content-Digest": digest,
        "Accept-Ranges": "bytes",
    }
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{node.size}"
    status = 206 if wanted else 200
    if head:
        return Response(status_code=status, headers=headers)
    return StreamingResponse(stream_file(store, cid, start, end - start), status, headers)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single range; None to send everything, as for a range not understood."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first:
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < start:
            return None
    else:
        start, end = max(0, size - int(last)), size
    if start >= end:
        message = f"the blob has {size} bytes"
        raise _Refusal(416, "SIZE_INVALID", message, {"Content-Range": f"bytes */{size}"})
    return start, end
