"""What a renter wants run: canonical JSON that travels in `createJob` and is bound by the job id."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_SPEC_BYTES = 4_096
MAX_SOURCES = 8
_VERSION = 1
_MANIFEST = re.compile(r"sha256:[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS = frozenset({"v", "command", "entrypoint", "env", "sources", "manifest", "workdir"})


@dataclass(frozen=True)
class JobSpec:
    """How to run the image, and where else to find it.

    Args:
        command: replaces the image's command if not empty.
        entrypoint: replaces the image's entrypoint; None keeps it.
        env: variables added to the image's.
        sources: http(s) base URLs of trustless IPFS gateways that have the image.
        manifest: digest "sha256:<hex>" of the platform manifest to run; empty if the image has only one.
        workdir: absolute working directory; empty keeps the image's.
    """

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    manifest: str = ""
    workdir: str = ""


def encode(spec: JobSpec) -> bytes:
    """Canonical bytes: sorted keys, no spaces, defaults left out, "v":1. The default spec is empty bytes.

    Raises:
        ValueError: a value breaks the limits `decode` checks.
    """
    document: dict[str, Any] = {
        "command": list(spec.command),
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "env": dict(spec.env),
        "sources": list(spec.sources),
        "manifest": spec.manifest,
        "workdir": spec.workdir,
    }
    given = {key: value for key, value in document.items() if value or (key == "entrypoint" and value is not None)}
    if not given:
        return b""
    text = json.dumps({**given, "v": _VERSION}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ValueError("job spec: text is not valid Unicode") from None
    decode(encoded)
    return encoded


def decode(data: bytes) -> JobSpec:
    """Read a spec that anybody may have written.

    Raises:
        ValueError: too large, not JSON, unknown key, wrong type or value; the text says which.
    """
    if not data:
        return JobSpec()
    if len(data) > MAX_SPEC_BYTES:
        raise ValueError(f"job spec is {len(data)} bytes; at most {MAX_SPEC_BYTES}")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_object)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("job spec is not UTF-8 JSON") from None
    if not isinstance(document, dict):
        raise ValueError("job spec is not a JSON object")
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        raise ValueError(f"job spec has unknown key {unknown[0]!r}")
    version = document.get("v")
    if version != _VERSION or isinstance(version, bool):
        raise ValueError(f"job spec version {version!r} is not {_VERSION}")
    return JobSpec(
        command=_strings(document, "command"),
        entrypoint=None if document.get("entrypoint") is None else _strings(document, "entrypoint"),
        env=_env(document),
        sources=_sources(document),
        manifest=_manifest(document),
        workdir=_workdir(document),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("job spec names a key twice")
    return dict(pairs)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"job spec: {key} must be text")
    if "\x00" in value or any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise ValueError(f"job spec: {key} has a character that no program can take")
    return value


def _strings(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"job spec: {key} must be a list of text")
    return tuple(_text(item, key) for item in value)


def _env(document: dict[str, Any]) -> dict[str, str]:
    value = document.get("env", {})
    if not isinstance(value, dict):
        raise ValueError("job spec: env must be an object of text")
    for name in value:
        if _ENV_NAME.fullmatch(name) is None:
            raise ValueError(f"job spec: env name {name!r} is not a variable name")
    return {name: _text(item, f"env {name}") for name, item in value.items()}


def _sources(document: dict[str, Any]) -> tuple[str, ...]:
    sources = _strings(document, "sources")
    if len(sources) > MAX_SOURCES:
        raise ValueError(f"job spec: at most {MAX_SOURCES} sources")
    for source in sources:
        if not _is_plain_url(source):
            raise ValueError(f"job spec: source {source!r} is not an http(s) URL")
    return sources


def _is_plain_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _manifest(document: dict[str, Any]) -> str:
    manifest = _text(document.get("manifest", ""), "manifest")
    if manifest and _MANIFEST.fullmatch(manifest) is None:
        raise ValueError("job spec: manifest is not sha256:<64 hex digits>")
    return manifest


def _workdir(document: dict[str, Any]) -> str:
    workdir = _text(document.get("workdir", ""), "workdir")
    if workdir and not workdir.startswith("/"):
        raise ValueError("job spec: workdir must be absolute")
    return workdir
