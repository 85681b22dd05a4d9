"""Where the gateway may call out to: a provider writes its own endpoint on chain, so it is hostile input.

A name is resolved once and the connection goes to that very address; a second lookup could answer differently.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpumarket.errors import MarketError

RESOLVE_TIMEOUT_S = 5
_EMBEDDED_IPV4 = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
)

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) → numeric addresses; raises OSError."""


@dataclass(frozen=True)
class Target:
    """A WebSocket URL and the one address it may be reached at."""

    url: str
    address: str
    port: int


async def resolve(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether an address is on the open internet. IPv6 forms that carry an IPv4 address count as it, or not at all."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in _EMBEDDED_IPV4):
            return False
    return ip.is_global and not ip.is_multicast


def is_never_allowed(address: str) -> bool:
    """Addresses no provider can mean, on no machine: link-local (cloud metadata), multicast, unspecified."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return is_never_allowed(str(ip.ipv4_mapped))
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified


async def target(endpoint: str, path: str, *, allow_private: bool, resolver: Resolver) -> Target:
    """The WebSocket target of `path` under a provider's endpoint.

    Raises:
        MarketError: `provider_unreachable` for a malformed, unresolvable or forbidden endpoint.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise MarketError("provider_unreachable", "the provider's endpoint is not an http or https URL")
    secure = parts.scheme == "https"
    port = port or (443 if secure else 80)
    try:
        addresses = await asyncio.wait_for(resolver(host, port), RESOLVE_TIMEOUT_S)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise MarketError("provider_unreachable", "the provider's endpoint does not resolve", host=host) from error
    if not addresses:
        raise MarketError("provider_unreachable", "the provider's endpoint does not resolve", host=host)
    for address in addresses:
        if is_never_allowed(address) or not (allow_private or is_public(address)):
            raise MarketError(
                "provider_unreachable",
                "the provider's endpoint is not on the open internet",
                hint="a development gateway may set allow_private_endpoints",
                host=host,
            )
    display = f"[{host}]" if ":" in host else host
    url = f"{'wss' if secure else 'ws'}://{display}:{port}{parts.path.rstrip('/')}{path}"
    return Target(url, addresses[0], port)
