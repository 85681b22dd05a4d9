"""Machines on offer, as the indexer tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gpumarket.rules.units import Address, ResourceId
from gpumarket.sdk.graphql import Queries

_FIELDS = """
  id provider gpuModel gpuCount vcpu memoryGB storageGB pricePerHour paymentToken available busy reputation isNew
  location uptime minSeconds maxSeconds endpoint
"""
_ALL = f"query($limit: Int, $offset: Int) {{ gpus(limit: $limit, offset: $offset) {{ {_FIELDS} }} }}"
_PAGE = 100


@dataclass(frozen=True)
class Filters:
    """What a renter asks for. None or False: no demand.

    Args:
        gpu_model: text that the model's name contains, any case.
        max_price_per_hour: base units.
        all: also show machines that cannot be rented right now.
    """

    gpu_model: str | None = None
    min_gpu_count: int | None = None
    min_memory_gb: int | None = None
    min_vcpu: int | None = None
    max_price_per_hour: int | None = None
    min_reputation: int | None = None
    provider: str | None = None
    all: bool = False

    def why_not(self, offer: Offer) -> str | None:
        """The first demand that an offer misses; None if it fits."""
        if not self.all and not offer.rentable:
            return "busy" if offer.busy else "unavailable"
        if self.gpu_model is not None and self.gpu_model.lower() not in offer.gpu_model.lower():
            return "gpu_model"
        if self.provider is not None and self.provider.lower() != offer.provider.lower():
            return "provider"
        floors = {
            "gpu_count": (self.min_gpu_count, offer.gpu_count),
            "memory_gb": (self.min_memory_gb, offer.memory_gb),
            "vcpu": (self.min_vcpu, offer.vcpu),
            "reputation": (self.min_reputation, offer.reputation or 0),
        }
        for name, (floor, value) in floors.items():
            if floor is not None and value < floor:
                return name
        if self.max_price_per_hour is not None and offer.price_per_hour > self.max_price_per_hour:
            return "price_per_hour"
        return None


@dataclass(frozen=True)
class Offer:
    """One machine. Prices in base units per hour; `reputation` is None for a provider too new to have one."""

    resource_id: ResourceId
    provider: Address
    gpu_model: str
    gpu_count: int
    vcpu: int
    memory_gb: int
    storage_gb: int
    price_per_hour: int
    payment_token: Address
    available: bool
    busy: bool
    reputation: int | None
    location: str | None
    min_seconds: int
    max_seconds: int
    endpoint: str

    @property
    def rentable(self) -> bool:
        return self.available and not self.busy

    def as_row(self) -> dict[str, Any]:
        return {**asdict(self), "price_per_hour": str(self.price_per_hour), "rentable": self.rentable}


@dataclass(frozen=True)
class Listing:
    """What was found, cheapest first, and how many machines each demand excluded."""

    offers: tuple[Offer, ...]
    excluded: Mapping[str, int]


async def find(queries: Queries, filters: Filters) -> Listing:
    """All offers that fit.

    Raises:
        MarketError: `gateway_unreachable`, `indexer_unreachable`.
    """
    offers: list[Offer] = []
    excluded: dict[str, int] = {}
    offset = 0
    while True:
        page = (await queries.query(_ALL, {"limit": _PAGE, "offset": offset}))["gpus"]
        for row in page:
            offer = parse_offer(row)
            reason = filters.why_not(offer)
            if reason is None:
                offers.append(offer)
            else:
                excluded[reason] = excluded.get(reason, 0) + 1
        if len(page) < _PAGE:
            break
        offset += _PAGE
    offers.sort(key=lambda offer: (offer.price_per_hour, offer.resource_id))
    return Listing(tuple(offers), excluded)


def parse_offer(row: Mapping[str, Any]) -> Offer:
    """A GraphQL GPUResource."""
    return Offer(
        resource_id=ResourceId(row["id"]),
        provider=Address(row["provider"]),
        gpu_model=row["gpuModel"],
        gpu_count=row["gpuCount"],
        vcpu=row["vcpu"],
        memory_gb=row["memoryGB"],
        storage_gb=row["storageGB"],
        price_per_hour=int(row["pricePerHour"]),
        payment_token=Address(row["paymentToken"]),
        available=row["available"],
        busy=row["busy"],
        reputation=None if row["isNew"] else int(row["reputation"]),
        location=row["location"],
        min_seconds=row["minSeconds"],
        max_seconds=row["maxSeconds"],
        endpoint=row["endpoint"] or "",
    )
