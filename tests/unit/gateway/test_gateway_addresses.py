from __future__ import annotations

import pytest

from gateway.addresses import Target, is_never_allowed, is_public, target
from gpumarket.errors import MarketError


def resolver(*addresses: str):  # type: ignore[no-untyped-def]
    calls: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        calls.append((host, port))
        return list(addresses)

    resolve.calls = calls  # type: ignore[attr-defined]
    return resolve


async def test_default_behavior_a_name_is_resolved_once_and_pinned() -> None:
    resolve = resolver("93.184.216.34")
    found = await target("https://agent.example", "/v1/jobs/x/logs", allow_private=False, resolver=resolve)
    assert found == Target("wss://agent.example:443/v1/jobs/x/logs", "93.184.216.34", 443)
    assert resolve.calls == [("agent.example", 443)]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://agent.example", "ws://agent.example:80/p"),
        ("http://agent.example:81/base/", "ws://agent.example:81/base/p"),
        ("https://[2606:2800:220:1::1]:9", "wss://[2606:2800:220:1::1]:9/p"),
    ],
)
async def test_the_path_goes_under_the_endpoint(endpoint: str, url: str) -> None:
    assert (await target(endpoint, "/p", allow_private=False, resolver=resolver("93.184.216.34"))).url == url


@pytest.mark.parametrize(
    "endpoint",
    ["", "agent.example", "ftp://x", "file:///etc", "http://", "http://a:b@x", "http://x:99999", "http://[::1"],
)
async def test_what_is_no_http_url_is_refused(endpoint: str) -> None:
    with pytest.raises(MarketError) as refused:
        await target(endpoint, "/p", allow_private=True, resolver=resolver("93.184.216.34"))
    assert refused.value.code == "provider_unreachable"


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "::1", "fc00::1", "0.0.0.0"]
HIDDEN = ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:10.0.0.1"]
NEVER = ["169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "::ffff:169.254.169.254", "ff02::1"]


@pytest.mark.parametrize("address", [*PRIVATE, *HIDDEN, *NEVER])
async def test_private_and_disguised_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(MarketError):
        await target("http://x", "/p", allow_private=False, resolver=resolver(address))


@pytest.mark.parametrize("address", NEVER)
async def test_metadata_and_multicast_are_refused_on_a_development_machine_too(address: str) -> None:
    assert is_never_allowed(address)
    with pytest.raises(MarketError):
        await target("http://x", "/p", allow_private=True, resolver=resolver(address))


async def test_loopback_is_reached_only_when_allowed() -> None:
    found = await target("http://localhost:7", "/p", allow_private=True, resolver=resolver("127.0.0.1"))
    assert found.address == "127.0.0.1"


async def test_one_bad_address_among_good_ones_is_enough_to_refuse() -> None:
    with pytest.raises(MarketError):
        await target("http://x", "/p", allow_private=False, resolver=resolver("93.184.216.34", "127.0.0.1"))


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async def fails(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    for resolve in (fails, resolver()):
        with pytest.raises(MarketError) as refused:
            await target("http://x", "/p", allow_private=True, resolver=resolve)
        assert refused.value.code == "provider_unreachable"
