"""One rental through every part of the system, with real parts, and whether its numbers add up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gpumarket.chain import events
from gpumarket.chain.client import ChainClient
from gpumarket.chain.types import Job
from gpumarket.dev import image
from gpumarket.dev.audit import Audit, Balances, audit_indexer, audit_money, audit_reputation, compute
from gpumarket.dev.ledger import of_kind, read_ledger
from gpumarket.dev.market import LocalMarket, local_market
from gpumarket.dev.places import ORACLES, THRESHOLD
from gpumarket.dev.receipt import hardware, make_receipt, show_receipt
from gpumarket.dev.story import Renter, Story
from gpumarket.dev.witness import Witnessed, examine, report_signer
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import format_amount
from gpumarket.sdk.graphql import GraphQL
from gpumarket.sdk.jobs import ONE

T = TypeVar("T")

RENTED_FOR_S = 60
_PROVIDER = (
    "query($a: String!) { provider(address: $a) { reputation isNew totalJobs successfulJobs disputes endpoint } }"
)


@dataclass
class Rental:
    """What the demo knows of its rental as it goes along."""

    market: LocalMarket
    story: Story
    chain: ChainClient
    queries: GraphQL
    http: httpx.AsyncClient
    audit: Audit = field(default_factory=Audit)
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def renter(self) -> Renter:
        return Renter(self.market, self.story)

    def amount(self, base_units: int) -> str:
        token = self.market.deployment.payment_token
        return f"{format_amount(base_units, token.decimals)} {token.symbol}"

    @contextlib.contextmanager
    def phase(self, name: str) -> Any:
        begin = time.monotonic()
        yield
        self.phases[name] = round(time.monotonic() - begin, 2)


async def demo(start: Path, base: Path | None, receipt_path: Path) -> bool:
    """Run it; true if every number adds up against the chain. The receipt goes to `receipt_path`.

    Raises:
        MarketError: a part failed; nothing is left running.
    """
    story = Story()
    story.step(1, "An EVM node, and the contracts through the script that operators use")
    async with local_market(start, base, story.say) as market, httpx.AsyncClient(timeout=20, trust_env=False) as http:
        chain = await ChainClient.connect(market.places.rpc_url, market.deployment)
        try:
            rental = Rental(market, story, chain, GraphQL(market.places.gateway_url, http), http)
            receipt = await _unless_a_part_dies(market, _tell(rental))
        finally:
            await chain.close()
        await asyncio.to_thread(receipt_path.write_text, json.dumps(receipt, indent=2) + "\n")
        show_receipt(story, receipt)
        story.say(f"receipt: {receipt_path}; stopping everything")
        return bool(receipt["ok"])


async def _tell(r: Rental) -> dict[str, Any]:
    story, market = r.story, r.market
    story.step(2, "One agent, three oracles, the indexer, the gateway, the renter's content store")
    for name, address in market.accounts.items():
        story.say(f"{name:9} {address}")
    story.say(f"gateway   {market.places.gateway_url}")
    offer = await _listed(r)

    rental_began = time.monotonic()
    pushed, task = await _push(r)
    before = await _balances(r)
    reputation_before = await r.chain.reputation(market.accounts["agent"])
    rented = await _rent(r, offer, pushed["root"], task)
    job_id = rented["job_id"]
    await _watch(r, job_id)
    witnessed = await _oracles(r, job_id, Cid.parse(pushed["root"]))
    job = await _settled(r, job_id)
    results = await _pull(r, job_id, task)
    rental_s = time.monotonic() - rental_began

    story.step(9, "The receipt, every number computed again from the rules")
    money = compute(job, await r.chain.fee_bps())
    head = (await r.chain.block("latest")).number
    roles = {address: name for name, address in market.accounts.items()} | {_deployer(market): "deployer"}
    ledger = await read_ledger(r.chain, market.deployment.block_number, head, roles)
    audit_money(r.audit, job, await r.chain.escrow(job_id), money, ledger, before, await _balances(r))
    row = (await r.queries.query(ONE, {"id": job_id}))["job"]
    result = Cid.dag_pb(bytes.fromhex(of_kind(ledger, events.JobCompleted, job_id=job_id)[0].result_cid[2:]))
    audit_indexer(r.audit, job, money, str(result), row)
    r.audit.same("the image on chain is the one pushed", pushed["root"], row["imageCID"])
    r.audit.same("the results' CID on chain is the one pulled", str(result), results["root"])
    indexed = (await r.queries.query(_PROVIDER, {"a": job.provider}))["provider"]
    reputation = await r.chain.reputation(job.provider)
    audit_reputation(r.audit, reputation_before, reputation, indexed)
    r.audit.same("a k-of-n report proves possession", True, witnessed.signers >= THRESHOLD)
    timings = {
        "set_up": market.timings,
        "rental": r.phases,
        "rental_seconds": round(rental_s, 2),
        "total_seconds": round(story.elapsed, 2),
    }
    return make_receipt(
        market, r.audit, offer, pushed, job, money, results, witnessed, ledger, asdict(reputation), timings
    )


async def _listed(r: Rental) -> dict[str, Any]:
    r.story.step(3, "The provider stakes, registers and lists this machine")

    async def look() -> dict[str, Any] | None:
        rows = (await r.queries.query("{ gpus { id gpuModel gpuCount vcpu memoryGB pricePerHour } }", {}))["gpus"]
        return rows[0] if rows else None

    offer = await _until(look, 60, "the machine is listed")
    stake = await r.chain.stake_of(r.market.accounts["agent"])
    r.story.say(f"staked {r.amount(stake.active)}; {offer['vcpu']} vCPU, {offer['memoryGB']} GB")
    r.story.say(hardware(offer))
    return offer


async def _push(r: Rental) -> tuple[dict[str, Any], image.Task]:
    r.story.step(4, "The renter builds an image and puts it on IPFS")
    task = image.Task(seed=secrets.token_hex(16))
    folder = r.market.places.base / "image"
    image.write_context(folder)
    tag = f"gpumarket-demo:{r.market.run_id}"
    with r.phase("build and push"):
        r.story.command(f"docker build --tag {tag} {folder}")
        await r.renter.docker(*image.build_command(tag, r.market.run_id, folder))
        pushed = await r.renter.run("push", tag)
    r.story.say(f"image {pushed['root']}, {pushed['size']:,} bytes in {pushed['blobs']} blobs")
    return pushed, task


async def _rent(r: Rental, offer: dict[str, Any], root: str, task: image.Task) -> dict[str, Any]:
    r.story.step(5, "The renter finds the machine, sees the whole price, and pays into escrow in one transaction")
    with r.phase("find and rent"):
        found = await r.renter.run("list", "--min-vcpu", "1")
        r.audit.same("the machine is found through GraphQL", [offer["id"]], [row["resource_id"] for row in found])
        variables = [part for name, value in task.environ().items() for part in ("--env", f"{name}={value}")]
        rented: dict[str, Any] = await r.renter.run(
            "rent", offer["id"], "--image", root, "--duration", f"{RENTED_FOR_S}s", *variables, "--yes"
        )
    escrow = await r.chain.escrow(rented["job_id"])
    r.audit.same("the tokens are in escrow", int(rented["locked"]), escrow.locked_amount)
    r.story.say(f"in escrow: {r.amount(escrow.locked_amount)}; gas used {rented['gas_used']:,}")
    return rented


async def _watch(r: Rental, job_id: str) -> None:
    r.story.step(6, "The agent accepts, fetches and verifies every block, runs the container; its log, live")
    with r.phase("run, with live log"):
        states = asyncio.create_task(_tell_states(r, job_id))
        try:
            lines = await r.renter.watch("logs", job_id, timeout_s=180)
        finally:
            states.cancel()
            await asyncio.gather(states, return_exceptions=True)
    r.audit.same("the log came whole", True, any(line.startswith("done:") for line in lines))


async def _tell_states(r: Rental, job_id: str) -> None:
    seen = JobStatus.CREATED
    while True:
        with contextlib.suppress(MarketError):
            job = await r.chain.job(job_id)
            if job.status is not seen:
                seen = job.status
                r.story.say(f"[chain] the job is {seen.name}")
        await asyncio.sleep(0.5)


async def _oracles(r: Rental, job_id: str, root: Cid) -> Witnessed:
    r.story.step(7, "Oracles challenged the host for the image, and reported on chain")
    sources = [r.market.places.oracle_url(member) for member in range(ORACLES)]
    folder = r.market.places.base / "evidence"
    seen: set[int] = set()

    async def look() -> Witnessed | None:
        job = await r.chain.job(job_id)
        head = (await r.chain.block("latest")).number
        for log in await r.chain.logs(r.market.deployment.block_number, head):
            event = events.decode(log, r.market.deployment.addresses)
            if isinstance(event, events.ReportSubmitted) and event.seq not in seen:
                found = await examine(r.chain, event, job, root, sources, folder, r.http)
                seen.add(event.seq)
                if found is not None:
                    return found
        return None

    with r.phase("oracle report"):
        found = await _until(look, 40, "the committee reports possession on chain")
    r.story.say(f"report {found.report.seq}: {found.signers} of {ORACLES} members signed, {THRESHOLD} are needed")
    r.story.say(f"evidence {found.evidence}: {found.possessions} proof(s) of possession verified here once more")
    return found


async def _settled(r: Rental, job_id: str) -> Job:
    r.story.step(8, "Results are pinned, their CID is on chain, escrow pays, the rest comes back")

    async def look() -> Job | None:
        job = await r.chain.job(job_id)
        if job.status in (JobStatus.CANCELLED, JobStatus.DISPUTED, JobStatus.RESOLVED):
            raise MarketError("job_status_invalid", f"the job ended as {job.status.name}")
        done = job.status is JobStatus.COMPLETED and (await r.chain.escrow(job_id)).completed
        return job if done else None

    with r.phase("settlement"):
        job = await _until(look, 60, "the job is settled")

        async def indexed() -> bool:
            row = (await r.queries.query(ONE, {"id": job_id}))["job"]
            return bool(row and row["providerAmount"] != "0")

        await _until(indexed, 20, "the indexer shows the settlement")
    return job


async def _pull(r: Rental, job_id: str, task: image.Task) -> dict[str, Any]:
    dest = r.market.places.base / "results"
    with r.phase("pull results"):
        pulled: dict[str, Any] = await r.renter.run("pull", job_id, str(dest))
    answer = image.read_answer(dest)
    r.story.say(f"the container's answer: {json.dumps(answer)}")
    r.audit.same("the container's answer is right", task.answer(), answer)
    r.audit.same("the provider signed its report", r.market.accounts["agent"], report_signer(r.chain, job_id, dest))
    return pulled | {"answer": answer}


async def _balances(r: Rental) -> Balances:
    renter, provider = r.market.accounts["renter"], r.market.accounts["agent"]
    escrow = r.market.deployment.addresses["PaymentEscrow"]
    return Balances(
        renter_wallet=await r.chain.token_balance(renter),
        renter_escrow=await r.chain.escrow_balance(renter),
        provider_wallet=await r.chain.token_balance(provider),
        provider_escrow=await r.chain.escrow_balance(provider),
        contract=await r.chain.token_balance(escrow),
    )


def _deployer(market: LocalMarket) -> Any:
    return market.deployment.parameters["admin"]


async def _until(look: Callable[[], Awaitable[T | None]], timeout_s: float, what: str) -> T:
    """Ask twice a second until there is an answer."""
    trouble: MarketError | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    found = await look()
                    if found:
                        return found
                except MarketError as error:
                    if error.code == "job_status_invalid":
                        raise
                    trouble = error
                await asyncio.sleep(0.5)
    hint = "" if trouble is None else f"last trouble: {trouble.message} ({trouble.code})"
    raise MarketError("deadline_passed", f"not within {timeout_s:.0f} s: {what}", hint=hint)


async def _unless_a_part_dies(market: LocalMarket, work: Awaitable[T]) -> T:
    """The work's result, or at once the reason when a service dies under it."""
    task = asyncio.ensure_future(work)
    failed = market.supervisor.failed
    failed.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if failed.done():
            raise MarketError("internal", failed.result()) from None
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
