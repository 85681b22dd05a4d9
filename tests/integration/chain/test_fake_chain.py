"""The fake market against the real one: the same calls must leave the same jobs, money, events and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from gpumarket.chain import calls, events
from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import Sender, load_account
from gpumarket.chain.types import JobRequest, RawLog, Receipt, ResourceParams
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.units import JobId, ResourceId
from gpumarket.sdk.jobs import MINE, ONE
from indexer.database import make_engine
from tests.fakes import FakeChain, FakeIndexer, FakeSender
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil
from tests.parts.market import UNIT, deploy_market
from tests.unit.indexer.parts import Indexer

pytestmark = pytest.mark.anvil

RENTER = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[0]})
PROVIDER = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[1]})
PRICE = 3_600_000 + 7
MAX = 2**200
NOT_IN_THE_FAKE = (events.ReputationUpdated,)  # a score, which the fake does not compute


class Writer(Protocol):
    async def execute(self, key: str, call: Call, timeout_s: float = 60.0) -> Receipt: ...


@dataclass
class Stage:
    """A market, fake or real, and its two actors."""

    chain: Any  # FakeChain or ChainClient: what is compared is that they look alike
    renter: Writer
    provider: Writer
    advance: Callable[[int], None]
    steps: int = 0

    @property
    def deployment(self) -> Deployment:
        found: Deployment = self.chain.deployment
        return found

    async def do(self, writer: Writer, call: Call) -> Receipt:
        self.steps += 1
        return await writer.execute(f"{call.label}:{self.steps}", call)

    async def refused(self, writer: Writer, call: Call) -> tuple[str, Any]:
        """The code and the contract's error name."""
        with pytest.raises(MarketError) as refused:
            await self.do(writer, call)
        return refused.value.code, refused.value.details.get("contract_error")


@pytest.fixture(scope="module")
def market() -> Iterator[tuple[Anvil, Deployment]]:
    with anvil() as node:
        yield node, deploy_market(node)


@pytest.fixture
async def real(market: tuple[Anvil, Deployment], tmp_path: Path) -> AsyncIterator[Stage]:
    node, deployment = market
    snapshot = node.rpc("evm_snapshot")
    client = await ChainClient.connect(node.url, deployment)
    renter, provider = (
        Sender(client, signer, tmp_path / f"{name}.db", poll_s=0.02)
        for name, signer in (("renter", RENTER), ("provider", PROVIDER))
    )
    stage = Stage(client, renter, provider, node.travel)
    await stage.do(renter, calls.transfer(deployment, PROVIDER.address, 10**24))
    for writer in (renter, provider):
        for name in ("PaymentEscrow", "StakeVault"):
            await stage.do(writer, calls.approve(deployment, deployment.addresses[name], MAX))
    yield stage
    for sender in (renter, provider):
        await sender.close()
    await client.close()
    node.rpc("evm_revert", snapshot)


@pytest.fixture
def fake() -> Stage:
    chain = FakeChain(wallet=10**24)
    return Stage(chain, FakeSender(chain, RENTER), FakeSender(chain, PROVIDER), chain.advance)


Story = Callable[[Stage], Awaitable[list[Any]]]


async def listed(stage: Stage) -> ResourceId:
    """A provider with one resource."""
    await stage.do(stage.provider, calls.register_provider(stage.deployment, "http://provider:1"))
    await stage.do(stage.provider, calls.stake(stage.deployment, 100 * UNIT))
    token = stage.deployment.payment_token.address
    params = ResourceParams("NVIDIA H200", 1, 8, 64, 500, PRICE, token, 60, 7200)
    await stage.do(stage.provider, calls.register_resource(stage.deployment, params))
    [resource_id] = await stage.chain.provider_resources(PROVIDER.address)
    return ResourceId(resource_id)


def request(stage: Stage, resource_id: ResourceId) -> JobRequest:
    return JobRequest(resource_id, b"\x01" * 32, 600, PRICE, stage.deployment.payment_token.address)


async def created(stage: Stage, resource_id: ResourceId) -> JobId:
    await stage.do(stage.renter, calls.create_job(stage.deployment, request(stage, resource_id)))
    return JobId(await stage.chain.active_job_of(resource_id))


async def running(stage: Stage) -> tuple[ResourceId, JobId]:
    resource_id = await listed(stage)
    job_id = await created(stage, resource_id)
    await stage.do(stage.provider, calls.accept_job(stage.deployment, job_id))
    await stage.do(stage.provider, calls.start_job(stage.deployment, job_id))
    return resource_id, job_id


async def state(stage: Stage, job_id: str) -> list[Any]:
    """What must be equal of a job; times are relative, ids and token differ between deployments."""
    job = await stage.chain.job(job_id)
    deadline = await stage.chain.next_deadline(job_id)
    return [
        (job.user, job.provider, job.resource_id, job.status, job.duration, job.min_seconds, job.price_per_hour),
        (job.locked_amount == 0, job.started_at > 0, job.ended_at > 0, deadline.selector),
        deadline.timestamp - job.since if deadline.timestamp else 0,
        await stage.chain.active_job_of(job.resource_id) == job_id,
    ]


async def completed(stage: Stage) -> list[Any]:
    resource_id, job_id = await running(stage)
    seen = [await state(stage, job_id), str(resource_id)]
    stage.advance(100)
    await stage.do(stage.provider, calls.complete_job(stage.deployment, job_id, b"\x02" * 32))
    seen += [await state(stage, job_id), await stage.refused(stage.renter, calls.settle_job(stage.deployment, job_id))]
    stage.advance(4)
    await stage.do(stage.provider, calls.settle_job(stage.deployment, job_id))
    seen += [await state(stage, job_id), await stage.refused(stage.renter, calls.settle_job(stage.deployment, job_id))]
    reputation = await stage.chain.reputation(PROVIDER.address)
    seen.append((reputation.total_jobs, reputation.successful_jobs, reputation.disputes, reputation.is_new))
    balance = await stage.chain.escrow_balance(PROVIDER.address)
    await stage.do(stage.provider, calls.withdraw(stage.deployment, balance, PROVIDER.address))
    seen.append(await stage.chain.escrow_balance(PROVIDER.address))
    return seen


async def stopped_early(stage: Stage) -> list[Any]:
    """Before the minimum: exactly the minimum is paid, so the amounts are equal too."""
    resource_id, job_id = await running(stage)
    await stage.do(stage.renter, calls.extend_job(stage.deployment, job_id, 60))
    await stage.do(stage.renter, calls.stop_job(stage.deployment, job_id))
    amounts = [await stage.chain.escrow_balance(account) for account in (RENTER.address, PROVIDER.address)]
    again = await created(stage, resource_id)  # paid from the escrow balance first
    after = await stage.chain.escrow_balance(RENTER.address)
    return [await state(stage, job_id), await state(stage, again), amounts, after]


async def ran_out(stage: Stage) -> list[Any]:
    _, job_id = await running(stage)
    early = await stage.refused(stage.renter, calls.end_job(stage.deployment, job_id))
    stage.advance(600)
    late = await stage.refused(stage.renter, calls.extend_job(stage.deployment, job_id, 60))
    await stage.do(stage.renter, calls.end_job(stage.deployment, job_id))
    stage.advance(4)
    await stage.do(stage.renter, calls.settle_job(stage.deployment, job_id))
    amounts = [await stage.chain.escrow_balance(account) for account in (RENTER.address, PROVIDER.address)]
    return [early, late, await state(stage, job_id), amounts]


async def never_accepted_never_started(stage: Stage) -> list[Any]:
    resource_id = await listed(stage)
    seen: list[Any] = []
    first = await created(stage, resource_id)
    seen.append(await stage.refused(stage.renter, calls.expire_job(stage.deployment, first)))
    stage.advance(120)
    seen.append(await stage.refused(stage.provider, calls.accept_job(stage.deployment, first)))
    await stage.do(stage.renter, calls.expire_job(stage.deployment, first))
    second = await created(stage, resource_id)
    await stage.do(stage.provider, calls.accept_job(stage.deployment, second))
    stage.advance(300)
    seen.append(await stage.refused(stage.provider, calls.start_job(stage.deployment, second)))
    await stage.do(stage.renter, calls.expire_job(stage.deployment, second))
    third = await created(stage, resource_id)
    await stage.do(stage.renter, calls.cancel_job(stage.deployment, third))
    for job_id in (first, second, third):
        seen.append(await state(stage, job_id))
    return [*seen, await stage.chain.escrow_balance(RENTER.address)]


async def disputed(stage: Stage) -> list[Any]:
    _, job_id = await running(stage)
    stage.advance(30)
    await stage.do(stage.renter, calls.dispute_job(stage.deployment, job_id, "no GPU inside"))
    seen = [await state(stage, job_id)]
    seen.append(await stage.refused(stage.renter, calls.resolve_by_timeout(stage.deployment, job_id)))
    stage.advance(60)
    await stage.do(stage.renter, calls.resolve_by_timeout(stage.deployment, job_id))
    amounts = [await stage.chain.escrow_balance(account) for account in (RENTER.address, PROVIDER.address)]
    return [*seen, await state(stage, job_id), amounts]


async def refusals(stage: Stage) -> list[Any]:
    deployment, other = stage.deployment, b"\x07" * 32
    seen = [await stage.refused(stage.provider, calls.accept_job(deployment, "0x" + "00" * 31 + "01"))]
    params = ResourceParams("GPU", 1, 8, 64, 500, PRICE, deployment.payment_token.address, 60, 7200)
    seen.append(await stage.refused(stage.provider, calls.register_resource(deployment, params)))
    resource_id = await listed(stage)
    seen.append(await stage.refused(stage.provider, calls.register_resource(deployment, params)))
    bad: tuple[dict[str, Any], ...] = (
        {"max_price_per_hour": PRICE - 1},
        {"payment_token": deployment.addresses["Marketplace"]},
        {"spec": bytes(4_097)},
        {"duration": 59},
        {"resource_id": "0x" + other.hex()},
    )
    for changes in bad:
        changed = replace(request(stage, resource_id), **changes)
        seen.append(await stage.refused(stage.renter, calls.create_job(deployment, changed)))
    seen.append(await stage.refused(stage.renter, calls.update_pricing(deployment, resource_id, 1)))
    await stage.do(stage.provider, calls.update_availability(deployment, resource_id, False))
    create = calls.create_job(deployment, request(stage, resource_id))
    seen.append(await stage.refused(stage.renter, create))
    await stage.do(stage.provider, calls.update_availability(deployment, resource_id, True))
    await stage.do(stage.provider, calls.update_pricing(deployment, resource_id, PRICE - 1))
    job_id = await created(stage, resource_id)
    seen.append(await stage.refused(stage.renter, create))
    seen.append(await stage.refused(stage.renter, calls.accept_job(deployment, job_id)))
    seen.append(await stage.refused(stage.provider, calls.start_job(deployment, job_id)))
    seen.append(await stage.refused(stage.provider, calls.withdraw(deployment, 1, PROVIDER.address)))
    return seen


@pytest.mark.parametrize(
    "story",
    [completed, stopped_early, ran_out, never_accepted_never_started, disputed, refusals],
    ids=lambda s: s.__name__,
)
async def test_the_fake_market_behaves_as_the_real_one(story: Story, fake: Stage, real: Stage) -> None:
    real_start = (await real.chain.block("latest")).number + 1
    assert await story(fake) == await story(real)
    assert await told(fake, 0) == await told(real, real_start)


async def told(stage: Stage, start: int) -> list[tuple[Any, ...]]:
    """Every event from block `start` on, with the values that do not depend on time or deployment."""
    raw: list[RawLog] = await stage.chain.logs(start, (await stage.chain.block("latest")).number)
    found = [events.decode(log, stage.deployment.addresses) for log in raw]
    return sorted(
        (type(event).__name__, [v for v in astuple(event)[5:] if isinstance(v, str) and "http" in v])
        for event in found
        if event is not None and not isinstance(event, NOT_IN_THE_FAKE)
    )


async def test_the_fake_and_the_client_answer_the_same_questions(fake: Stage, real: Stage) -> None:
    seen = []
    for stage in (fake, real):
        resource_id = await listed(stage)
        resource = await stage.chain.resource(resource_id)
        first = await stage.chain.block(0)
        seen.append(
            (
                *(resource.resource_id, resource.provider, resource.gpu_model, resource.memory_gb, resource.available),
                await stage.chain.endpoint_of(PROVIDER.address),
                await stage.chain.stake_of(PROVIDER.address),
                await stage.chain.required_stake(3),
                await stage.chain.windows(),
                await stage.chain.fee_bps(),
                await stage.chain.token_name(),
                await stage.chain.token_balance(PROVIDER.address),
                first.number,
            )
        )
        assert 0 < await stage.chain.gas_price() < 10**12  # wei
        with pytest.raises(MarketError) as missing:
            await stage.chain.job("0x" + "99" * 32)
        assert missing.value.code == "not_found"
        with pytest.raises(MarketError) as missing:
            await stage.chain.block(10**9)
        assert missing.value.code == "not_found"
    assert seen[0] == seen[1]


async def test_the_fake_indexer_answers_as_the_real_one_does(fake: Stage, tmp_path: Path) -> None:
    """The real one reads the fake market here, so that both speak of the same transactions."""
    resource_id, done = await running(fake)
    await fake.do(fake.provider, calls.complete_job(fake.deployment, done, b"\x02" * 32))
    pending = await created(fake, resource_id)
    told = FakeIndexer(fake.chain)
    engine = make_engine(f"sqlite+aiosqlite:///{tmp_path}/index.db")
    real = Indexer(fake.chain, engine, addresses=fake.deployment.addresses)
    try:
        await real.catch_up()
        for job_id, result in ((done, str(Cid.dag_pb(b"\x02" * 32))), (pending, None), ("0x" + "9" * 64, None)):
            told.result_cid = result
            answer, truth = await told.query(ONE, {"id": job_id}), await real.ask(ONE, id=job_id)
            assert alike(answer["job"], truth["job"]), job_id
        told.result_cid = None
        answer, truth = await told.query(MINE, {"user": RENTER.address}), await real.ask(MINE, user=RENTER.address)
        rows = {row["id"]: row for row in truth["jobs"]}
        assert {row["id"] for row in answer["jobs"]} == set(rows) == {done, pending}
        assert alike(next(row for row in answer["jobs"] if row["id"] == pending), rows[pending])
    finally:
        await engine.dispose()


def alike(answer: dict[str, Any] | None, truth: dict[str, Any] | None) -> bool:
    """Whether the fake says nothing that is not so; it leaves fields out that no test asks for."""
    if answer is None or truth is None:
        return answer is truth
    return answer == {name: truth[name] for name in answer}
