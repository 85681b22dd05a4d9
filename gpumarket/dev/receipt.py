"""The demo's receipt: who paid what to whom, for what, and in which transactions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gpumarket.chain.types import Job
from gpumarket.dev.audit import Audit, Money
from gpumarket.dev.ledger import Entry
from gpumarket.dev.market import BLOCK_S, LocalMarket
from gpumarket.dev.story import Story
from gpumarket.dev.witness import Witnessed
from gpumarket.rules.units import format_amount

RENTAL_GOAL_S = 60.0


def make_receipt(
    market: LocalMarket,
    audit: Audit,
    offer: dict[str, Any],
    pushed: dict[str, Any],
    job: Job,
    money: Money,
    results: dict[str, Any],
    witnessed: Witnessed,
    ledger: tuple[Entry, ...],
    reputation: dict[str, Any],
    timings: dict[str, Any],
) -> dict[str, Any]:
    """All of it, as JSON; amounts are decimal texts of base units."""
    token = market.deployment.payment_token
    payments = [
        {"from": "renter", "to": "provider", "amount": str(money.to_provider), "why": "billable time, less the fee"},
        {"from": "renter", "to": "platform", "amount": str(money.fee), "why": "fee"},
        {"from": "escrow", "to": "renter", "amount": str(money.refund), "why": "unused time"},
    ]
    return {
        "ok": audit.ok,
        "chain_id": market.deployment.chain_id,
        "block_seconds": BLOCK_S,
        "hardware": hardware(offer),
        "job_id": job.job_id,
        "resource_id": job.resource_id,
        "renter": job.user,
        "provider": job.provider,
        "image": pushed["root"],
        "manifest": pushed["manifest_digest"],
        "results": results["root"],
        "answer": results["answer"],
        "token": {"address": token.address, "symbol": token.symbol, "decimals": token.decimals},
        "price_per_hour": str(job.price_per_hour),
        "paid_for_seconds": job.duration,
        "billable_seconds": money.billable_seconds,
        "money": {name: str(value) for name, value in asdict(money).items() if name != "billable_seconds"},
        "payments": payments,
        "report": witnessed.as_row(),
        "reputation": reputation,
        "transactions": [entry.as_row() for entry in ledger if entry.who != "deployer"],
        "deployment_gas": sum(entry.gas_used for entry in ledger if entry.who == "deployer"),
        "timings": timings,
        "checks": [check.as_row() for check in audit.checks],
    }


def show_receipt(story: Story, receipt: dict[str, Any]) -> None:
    """The receipt for people."""
    token = receipt["token"]

    def amount(text: str) -> str:
        return f"{format_amount(int(text), token['decimals'])} {token['symbol']}"

    story.say(f"job       {receipt['job_id']}")
    story.say(f"image     {receipt['image']}")
    story.say(f"results   {receipt['results']}")
    story.say(f"machine   {receipt['hardware']}")
    story.say(f"price     {amount(receipt['price_per_hour'])} per hour")
    story.say(f"billable  {receipt['billable_seconds']} of {receipt['paid_for_seconds']} s paid for")
    story.say(f"locked    {amount(receipt['money']['locked'])}")
    for payment in receipt["payments"]:
        story.say(f"{payment['from']:>8} -> {payment['to']:<8} {amount(payment['amount'])}  ({payment['why']})")
    for entry in receipt["transactions"]:
        story.say(f"{entry['tx_hash']} {entry['gas_used']:>9,} gas  {entry['from']}: {entry['what']}")
    timings = receipt["timings"]
    for name, seconds in {**timings["set_up"], **timings["rental"]}.items():
        story.say(f"{seconds:7.1f} s  {name}")
    story.say(f"{timings['rental_seconds']:7.1f} s  the whole rental (the goal is less than {RENTAL_GOAL_S:.0f} s)")
    checks = receipt["checks"]
    good = sum(check["ok"] for check in checks)
    story.say(f"{good} of {len(checks)} checks against the chain hold")
    for check in checks:
        if not check["ok"]:
            story.say(f"NOT RIGHT: {check['name']}: expected {check['expected']}, got {check['actual']}")


def hardware(offer: dict[str, Any]) -> str:
    """What the machine is, in plain words."""
    if not offer["gpuCount"]:
        return "no GPU on this machine: it is listed as CPU-only, and no GPU work was done or claimed"
    return f"{offer['gpuCount']} x {offer['gpuModel']}"
