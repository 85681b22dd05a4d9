from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.rules.job_spec import MAX_SPEC_BYTES, JobSpec, decode, encode

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=20)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
specs = st.builds(
    JobSpec,
    command=st.lists(texts, max_size=4).map(tuple),
    entrypoint=st.none() | st.lists(texts, max_size=3).map(tuple),
    env=st.dictionaries(names, texts, max_size=3),
    sources=st.lists(st.sampled_from(["http://a:8080", "https://b.example/x"]), max_size=2).map(tuple),
    manifest=st.sampled_from(["", "sha256:" + "ab" * 32]),
    workdir=st.sampled_from(["", "/data"]),
)


def test_default_behavior() -> None:
    spec = JobSpec(command=("python", "-c", "print(1)"), env={"B": "2", "A": "1"})
    assert encode(spec) == b'{"command":["python","-c","print(1)"],"env":{"A":"1","B":"2"},"v":1}'
    assert decode(encode(spec)) == spec


def test_the_default_spec_is_no_bytes() -> None:
    assert encode(JobSpec()) == b""
    assert decode(b"") == JobSpec()
    assert decode(b'{"v":1}') == JobSpec()


def test_an_empty_entrypoint_is_not_the_images_own() -> None:
    assert decode(encode(JobSpec(entrypoint=()))).entrypoint == ()


@given(specs)
def test_decoding_gives_the_spec_back(spec: JobSpec) -> None:
    encoded = encode(spec)
    assert decode(encoded) == spec
    assert encode(decode(encoded)) == encoded


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not UTF-8 JSON"),
        (b"\xff", "not UTF-8 JSON"),
        (b"{}", "version None"),
        (b'{"v":2}', "version 2"),
        (b'{"v":true}', "version True"),
        (b'{"v":1,"gpu":1}', "unknown key 'gpu'"),
        (b'{"v":1,"v":1}', "twice"),
        (b'{"v":1,"command":"ls"}', "command must be a list"),
        (b'{"v":1,"command":[1]}', "command must be text"),
        (b'{"v":1,"command":["\\u0000"]}', "no program can take"),
        (b'{"v":1,"command":["\\ud800"]}', "no program can take"),
        (b'{"v":1,"env":[]}', "env must be an object"),
        (b'{"v":1,"env":{"A=B":"1"}}', "not a variable name"),
        (b'{"v":1,"env":{"A":1}}', "env A must be text"),
        (b'{"v":1,"sources":["ftp://x"]}', "not an http"),
        (b'{"v":1,"sources":["http://user@x"]}', "not an http"),
        (b'{"v":1,"sources":["http://[x"]}', "not an http"),
        (b'{"v":1,"manifest":"sha256:00"}', "manifest"),
        (b'{"v":1,"workdir":"data"}', "absolute"),
        (b"[" * 4000, "not UTF-8 JSON"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_too_many_sources_and_too_many_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 8 sources"):
        encode(JobSpec(sources=("http://x",) * 9))
    fits = MAX_SPEC_BYTES - len(json.dumps({"command": [""], "v": 1}, separators=(",", ":")))
    assert len(encode(JobSpec(command=("x" * fits,)))) == MAX_SPEC_BYTES
    with pytest.raises(ValueError, match="4097 bytes"):
        encode(JobSpec(command=("x" * (fits + 1),)))


def test_text_that_is_no_unicode_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="Unicode"):
        encode(JobSpec(command=("\ud800",)))


@given(st.binary(max_size=200))
def test_garbage_never_does_more_than_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)
