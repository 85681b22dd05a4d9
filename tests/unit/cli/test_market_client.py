"""The renter's SDK against a market in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from gpumarket.chain import calls, typed_data
from gpumarket.chain.sender import Signer, create_keystore, load_account
from gpumarket.chain.types import Resource, ResourceParams
from gpumarket.client import Account, MarketClient, RenterSettings
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from tests.fakes import FakeChain, FakeIndexer, FakeSender, MemoryBlocks

IMAGE = Cid.dag_pb(bytes(range(32)))
PRICE = 18 * 10**17


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signer, Signer]:
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> Signer:
        create_keystore(folder / name, "test")
        return load_account(folder / name, {"GPUMARKET_PASSPHRASE": "test"})

    return make("renter"), make("provider")


class Market:
    """A fake chain with one listed machine, and a client of it."""

    def __init__(self, signers: tuple[Signer, Signer], tmp_path: Path) -> None:
        self.renter, self.provider = signers
        self.chain = FakeChain()
        self.host = FakeSender(self.chain, self.provider)
        self.sender = FakeSender(self.chain, self.renter)
        self.indexer = FakeIndexer(self.chain)
        self.resource = self._list()
        self.client = MarketClient(
            settings=RenterSettings(data_dir=tmp_path, store_url="http://store.test"),
            chain=self.chain,
            queries=self.indexer,
            store=MemoryBlocks(),
            http=httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(404))),
            account=Account(self.renter, self.sender),
            clock=lambda: float(self.chain.now),
            sleep=self._sleep,
        )

    def act(self, call: calls.Call) -> None:
        self.chain.apply(self.provider.address, call)

    def _list(self) -> Resource:
        deployment = self.chain.deployment
        params = ResourceParams("CPU-only", 0, 2, 4, 10, PRICE, deployment.payment_token.address, 10, 3600)
        self.act(calls.register_provider(deployment, "http://agent.test"))
        self.act(calls.stake(deployment, 100 * 10**18))
        self.act(calls.register_resource(deployment, params))
        return next(iter(self.chain._resources.values()))

    async def _sleep(self, seconds: float) -> None:
        self.chain.advance(max(1, int(seconds)))


@pytest.fixture
def market(signers: tuple[Signer, Signer], tmp_path: Path) -> Market:
    return Market(signers, tmp_path)


async def rented(market: Market) -> str:
    plan = await market.client.plan(market.resource.resource_id, str(IMAGE), 60)
    return (await market.client.rent(plan)).job_id


async def test_default_behavior(market: Market) -> None:
    client = market.client
    plan = await client.plan(market.resource.resource_id, str(IMAGE), 60, JobSpec(env={"A": "b"}))
    assert plan.locked == PRICE * 60 // 3600
    rental = await client.rent(plan)
    view = await client.status(rental.job_id)
    assert (view.job.status, view.job.locked_amount, rental.locked) == (JobStatus.CREATED, plan.locked, plan.locked)


async def test_a_plan_moves_no_money(market: Market) -> None:
    before = await market.client.wallet()
    await market.client.plan(market.resource.resource_id, str(IMAGE), 60)
    assert await market.client.wallet() == before
    assert market.sender.sent == {}


async def test_the_same_plan_is_paid_once(market: Market) -> None:
    plan = await market.client.plan(market.resource.resource_id, str(IMAGE), 60)
    first, second = await market.client.rent(plan), await market.client.rent(plan)
    assert first == second
    assert len(market.sender.sent) == 1


async def test_the_renters_store_becomes_a_source(market: Market) -> None:
    plan = await market.client.plan(market.resource.resource_id, str(IMAGE), 60, JobSpec(sources=("http://a.test",)))
    assert plan.spec.sources == ("http://a.test", "http://store.test")


async def test_a_permit_travels_in_the_same_transaction(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(owner: Any) -> int:
        return 0

    monkeypatch.setattr(market.chain, "allowance", nothing)
    plan = await market.client.plan(market.resource.resource_id, str(IMAGE), 60)
    assert plan.permit
    await market.client.rent(plan)
    ((call, _),) = market.sender.sent.values()
    assert call.label == "createJobWithPermit"


@pytest.mark.parametrize("text", ["", "hello", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"])
async def test_what_is_no_image_cid_is_refused(market: Market, text: str) -> None:
    with pytest.raises(MarketError) as caught:
        await market.client.plan(market.resource.resource_id, text, 60)
    assert caught.value.code == "invalid_argument"


async def test_a_spec_over_its_limits_is_refused_before_paying(market: Market) -> None:
    with pytest.raises(MarketError) as caught:
        await market.client.plan(market.resource.resource_id, str(IMAGE), 60, JobSpec(env={"A": "x" * 5000}))
    assert caught.value.code == "invalid_job_spec"


async def test_a_busy_machine_is_refused_before_paying(market: Market) -> None:
    await rented(market)
    with pytest.raises(MarketError) as caught:
        await market.client.plan(market.resource.resource_id, str(IMAGE), 60)
    assert caught.value.code == "resource_busy"


async def test_without_an_account_only_reading_works(market: Market) -> None:
    job_id = await rented(market)
    market.client._account = None
    assert (await market.client.status(job_id)).job.job_id == job_id
    with pytest.raises(MarketError) as caught:
        await market.client.stop(job_id)
    assert caught.value.code == "unauthorized"


async def test_cancel_brings_everything_back(market: Market) -> None:
    job_id = await rented(market)
    await market.client.cancel(job_id)
    assert (await market.client.wallet()).escrow == PRICE * 60 // 3600


async def test_stop_pays_the_seconds_used(market: Market) -> None:
    job_id = await rented(market)
    market.act(calls.accept_job(market.chain.deployment, job_id))
    market.act(calls.start_job(market.chain.deployment, job_id))
    market.chain.advance(19)
    view = await market.client.status(job_id)
    assert view.accrued == PRICE * 19 // 3600
    await market.client.stop(job_id)
    job = await market.chain.job(job_id)
    used = job.ended_at - job.started_at
    assert (await market.client.wallet()).escrow == PRICE * 60 // 3600 - PRICE * used // 3600


async def test_status_survives_an_indexer_that_is_down(market: Market) -> None:
    job_id = await rented(market)
    market.indexer.down = True
    view = await market.client.status(job_id)
    assert view.indexed is None
    assert view.as_row()["chain_status"] == "CREATED"


async def test_wait_for_ends_with_the_status(market: Market) -> None:
    job_id = await rented(market)
    market.act(calls.accept_job(market.chain.deployment, job_id))
    seen: list[JobStatus] = []
    job = await market.client.wait_for(job_id, {JobStatus.ACCEPTED}, 5, lambda job: seen.append(job.status))
    assert (job.status, seen) == (JobStatus.ACCEPTED, [JobStatus.ACCEPTED])


async def test_wait_for_gives_up_in_time(market: Market) -> None:
    job_id = await rented(market)
    with pytest.raises(MarketError) as caught:
        await market.client.wait_for(job_id, {JobStatus.RUNNING}, 3)
    assert caught.value.code == "deadline_passed"


async def test_wait_for_ends_when_the_job_ends_otherwise(market: Market) -> None:
    job_id = await rented(market)
    await market.client.cancel(job_id)
    with pytest.raises(MarketError) as caught:
        await market.client.wait_for(job_id, {JobStatus.RUNNING}, 3)
    assert caught.value.code == "job_status_invalid"


async def test_the_results_cid_is_the_one_on_chain(market: Market) -> None:
    job_id = await rented(market)
    result = bytes(reversed(range(32)))
    for call in (
        calls.accept_job(market.chain.deployment, job_id),
        calls.start_job(market.chain.deployment, job_id),
        calls.complete_job(market.chain.deployment, job_id, result),
    ):
        market.act(call)
    market.indexer.result_cid = "a lie"
    assert await market.client.result_cid(job_id) == Cid.dag_pb(result)


async def test_a_job_without_results_says_so(market: Market) -> None:
    job_id = await rented(market)
    with pytest.raises(MarketError) as caught:
        await market.client.result_cid(job_id)
    assert caught.value.code == "not_found"


async def test_a_grant_is_signed_by_the_renter(market: Market) -> None:
    job_id = await rented(market)
    frame = market.client._greeting(job_id, "logs", 7)
    grant = frame["grant"]
    signed = typed_data.access_grant(market.chain.deployment, job_id, market.renter.address, "logs", grant["expiresAt"])
    assert typed_data.recover(signed, bytes.fromhex(frame["signature"][2:])) == market.renter.address
    assert (frame["after"], grant["expiresAt"] > market.chain.now) == (7, True)


async def test_withdraw_empties_the_escrow_balance(market: Market) -> None:
    await market.client.cancel(await rented(market))
    wallet = await market.client.wallet()
    await market.client.withdraw(wallet.escrow)
    after = await market.client.wallet()
    assert (after.escrow, after.wallet) == (0, wallet.wallet + wallet.escrow)


async def test_extend_spends_the_escrow_balance_before_it_asks_for_an_allowance(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(owner: Any) -> int:
        return 0

    await market.client.cancel(await rented(market))
    job_id = await rented(market)
    for call in (calls.accept_job, calls.start_job):
        market.act(call(market.chain.deployment, job_id))
    monkeypatch.setattr(market.chain, "allowance", nothing)
    await market.client.extend(job_id, 30)
    labels = [call.label for call, _ in market.sender.sent.values()]
    assert labels[-2:] == ["approve", "extendJob"]
    assert (await market.chain.job(job_id)).duration == 90


async def test_claim_takes_the_money_back_from_a_provider_that_never_starts(market: Market) -> None:
    job_id = await rented(market)
    with pytest.raises(MarketError) as early:
        await market.client.claim(job_id)
    assert early.value.code == "deadline_not_reached"
    market.act(calls.accept_job(market.chain.deployment, job_id))
    market.chain.advance((await market.chain.windows()).start + 1)
    await market.client.claim(job_id)
    assert (await market.chain.job(job_id)).status is JobStatus.CANCELLED
    assert (await market.client.wallet()).escrow == PRICE * 60 // 3600
    with pytest.raises(MarketError) as late:
        await market.client.claim(job_id)
    assert late.value.code == "job_status_invalid"


async def test_dispute_stops_the_clock(market: Market) -> None:
    job_id = await rented(market)
    for call in (calls.accept_job, calls.start_job):
        market.act(call(market.chain.deployment, job_id))
    await market.client.dispute(job_id, "nothing works")
    assert (await market.chain.job(job_id)).status is JobStatus.DISPUTED


async def test_nothing_is_approved_for_a_deposit_or_extension_that_cannot_be_paid(market: Market) -> None:
    job_id = await rented(market)
    before = len(market.sender.sent)
    with pytest.raises(MarketError) as poor:
        await market.client.deposit((await market.client.wallet()).wallet + 1)
    assert poor.value.code == "insufficient_balance"
    with pytest.raises(MarketError) as early:
        await market.client.extend(job_id, 30)
    assert early.value.code == "job_status_invalid"
    assert len(market.sender.sent) == before
