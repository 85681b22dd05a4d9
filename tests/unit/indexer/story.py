"""Market events for tests: raw logs as a node gives them, and random but lawful histories."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from eth_abi.abi import encode

from gpumarket.chain.codec import checksum, hex_of, keccak

ABI = Path(__file__).parents[3] / "gpumarket/chain/abi"
ADDRESSES = {
    name: checksum(f"0x{index:040x}")
    for index, name in enumerate(
        ("PaymentEscrow", "StakeVault", "ResourceRegistry", "Marketplace", "ReputationSystem", "OracleCommittee"),
        0xA001,
    )
}
TOKEN = checksum("0x" + "70" * 20)
RENTER = checksum("0x" + "11" * 20)
PROVIDERS = tuple(checksum("0x" + f"{n:02x}" * 20) for n in (0x21, 0x22, 0x23))
SPEC = b'{"v":1}'


@cache
def _entry(contract: str, event: str) -> dict[str, Any]:
    entries = json.loads((ABI / f"{contract}.json").read_text())
    return next(entry for entry in entries if entry["type"] == "event" and entry["name"] == event)


def raw(contract: str, event: str, *values: Any) -> dict[str, Any]:
    """A log without its place in a chain."""
    inputs = _entry(contract, event)["inputs"]
    signature = f"{event}({','.join(i['type'] for i in inputs)})"
    given = [(i, _plain(i["type"], value)) for i, value in zip(inputs, values, strict=True)]
    topics = [hex_of(keccak(signature.encode()))] + [hex_of(encode([i["type"]], [v])) for i, v in given if i["indexed"]]
    rest = [(i["type"], v) for i, v in given if not i["indexed"]]
    data = encode([kind for kind, _ in rest], [value for _, value in rest])
    return {"address": ADDRESSES[contract].lower(), "topics": topics, "data": hex_of(data)}


def _plain(kind: str, value: Any) -> Any:
    return bytes.fromhex(value[2:]) if kind == "bytes32" and isinstance(value, str) else value


def resource_id(provider: str, number: int) -> str:
    return provider.lower() + f"{number:024x}"


def job_id(number: int) -> str:
    return hex_of(keccak(f"job {number}".encode()))


def registered(
    provider: str, number: int, *, model: str = "NVIDIA H200", price: int = 3_600, memory: int = 64
) -> dict[str, Any]:
    return raw(
        "ResourceRegistry", "ResourceRegistered", resource_id(provider, number), provider, model,
        1, 16, memory, 500, price, TOKEN, 60, 86_400, "0x" + "00" * 32,
    )  # fmt: skip


def provider_registered(provider: str, endpoint: str = "http://host:1") -> dict[str, Any]:
    return raw("ResourceRegistry", "ProviderRegistered", provider, endpoint)


def created(
    job: str, resource: str, *, user: str = RENTER, price: int = 3_600, duration: int = 600
) -> list[dict[str, Any]]:
    cost = -(-price * duration // 3_600)
    return [
        raw("Marketplace", "JobCreated", job, user, resource, "0x" + "ab" * 32, price, duration, cost, SPEC),
        raw("PaymentEscrow", "FundsLocked", job, user, TOKEN, cost),
    ]


class History:
    """Random, but only what the contracts would allow; `state` follows along so that a fork can start anywhere."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.resources: list[str] = []
        self.known: set[str] = set()
        self.count = 0

    def copy(self, seed: int) -> History:
        other = History(seed)
        other.jobs = {key: dict(value) for key, value in self.jobs.items()}
        other.resources = list(self.resources)
        other.known = set(self.known)
        other.count = self.count + 1_000 * (seed + 1)
        return other

    def block(self, now: int) -> list[dict[str, Any]]:
        return [log for _ in range(self.random.randrange(4)) for log in self._move(now)]

    def _move(self, now: int) -> list[dict[str, Any]]:
        r = self.random
        provider = r.choice(PROVIDERS)
        self.count += 1
        if provider not in self.known:
            self.known.add(provider)
            return [provider_registered(provider, f"http://host:{self.count}")]
        if len(self.resources) < 3 or r.random() < 0.1:
            resource = resource_id(provider, self.count)
            self.resources.append(resource)
            return [registered(provider, self.count, price=r.randrange(1, 10**30), memory=r.randrange(1, 512))]
        resource = r.choice(self.resources)
        job = next((j for j, v in self.jobs.items() if v["resource"] == resource and v["status"] in (1, 2, 3)), None)
        if job is None or r.random() < 0.3:
            return self._side_move(resource, provider, job)
        return self._job_move(job, self.jobs[job], now)

    def _side_move(self, resource: str, provider: str, job: str | None) -> list[dict[str, Any]]:
        r = self.random
        if job is None and r.random() < 0.6:
            new = job_id(self.count)
            cost = -(-3_600 * 600 // 3_600)
            self.jobs[new] = {"resource": resource, "status": 1, "locked": cost}
            return created(new, resource)
        return [
            r.choice(
                (
                    raw("ResourceRegistry", "AvailabilityUpdated", resource, r.random() < 0.5),
                    raw("ResourceRegistry", "PricingUpdated", resource, r.randrange(1, 10**30)),
                    raw("ResourceRegistry", "UptimeUpdated", resource, self.count),
                    raw("ReputationSystem", "JobRecorded", provider, r.randrange(5)),
                    raw("ReputationSystem", "ReputationUpdated", provider, r.randrange(1_001)),
                    raw("ReputationSystem", "MetricsUpdated", provider, r.randrange(10_001), r.randrange(10_001)),
                    raw("ReputationSystem", "PenaltyApplied", provider, r.randrange(5), 50),
                    raw("ReputationSystem", "RewardIssued", provider, 5),
                    raw("StakeVault", "Staked", provider, RENTER, r.randrange(1, 10**24)),
                    raw("StakeVault", "Slashed", provider, RENTER, 3, 2, 1, "0x" + "01" * 32),
                    raw("PaymentEscrow", "Deposited", RENTER, TOKEN, 7),
                    raw("PaymentEscrow", "TokenAllowed", TOKEN, 0),
                    raw("Marketplace", "FeeUpdated", r.randrange(500)),
                    raw(
                        "OracleCommittee",
                        "CommitteeConfigured",
                        "0x" + "0c" * 32,
                        self.count,
                        1,
                        [RENTER],
                        ["http://o"],
                    ),
                    raw("OracleCommittee", "ReportSubmitted", self.count, 1, "0x" + "0d" * 32, 1, "0x" + "0e" * 32, 1),
                )
            )
        ]

    def _job_move(self, job: str, known: dict[str, Any], now: int) -> list[dict[str, Any]]:
        r = self.random
        provider = checksum(known["resource"][:42])
        market = "Marketplace"
        if known["status"] == 1:
            known["status"] = r.choice((2, 2, 2, 7))
            if known["status"] == 2:
                return [raw(market, "JobAccepted", job, provider)]
            return [raw(market, "JobCancelled", job, 1), raw("PaymentEscrow", "Refunded", job, RENTER, known["locked"])]
        if known["status"] == 2:
            known["status"] = r.choice((3, 3, 5))
            if known["status"] == 3:
                return [raw(market, "JobStarted", job, now)]
        elif r.random() < 0.4:
            return [
                raw(market, "JobExtended", job, RENTER, 700, 9),
                raw("PaymentEscrow", "FundsLocked", job, RENTER, TOKEN, 9),
            ]
        else:
            known["status"] = r.choice((4, 5))
        if known["status"] == 4:
            return [
                raw(market, "JobCompleted", job, 3, 100, 100, "0x" + "0f" * 32),
                raw("PaymentEscrow", "FundsReleased", job, provider, 98, 2),
                raw("PaymentEscrow", "Refunded", job, RENTER, known["locked"] - 100),
            ]
        known["status"] = 6
        return [
            raw(market, "JobDisputed", job, RENTER, "it broke", 50),
            raw(market, "EvidenceSubmitted", job, RENTER, "0x" + "0a" * 32),
            raw(market, "JobResolved", job, r.randrange(3), False),
        ]
