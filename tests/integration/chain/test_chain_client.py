"""Reads, signatures and proofs against the real contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumarket.chain import calls, events, merkle, typed_data
from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.codec import bytes32, bytes_of, encode_call, hex_of
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import Sender, load_account
from gpumarket.chain.types import JobRequest, Member, Outcome, OutcomeKind, Receipt, Report, ResourceParams, Windows
from gpumarket.errors import MarketError
from gpumarket.rules import settlement
from gpumarket.rules.job_state import EndReason, JobStatus
from gpumarket.rules.units import JobId, ResourceId
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil
from tests.parts.market import FEE_BPS, UNIT, WINDOWS, deploy_market

pytestmark = pytest.mark.anvil

RENTER, PROVIDER, *ORACLES = (load_account(None, {"GPUMARKET_PRIVATE_KEY": key}) for key in ANVIL_KEYS)
PRICE = 36 * UNIT + 1


@dataclass
class Market:
    node: Anvil
    client: ChainClient
    renter: Sender
    provider: Sender
    count: int = 0

    @property
    def deployment(self) -> Deployment:
        return self.client.deployment

    async def do(self, sender: Sender, call: Call) -> Receipt:
        self.count += 1
        return await sender.execute(f"{call.label}:{self.count}", call)

    async def listed(self) -> ResourceId:
        deployment, token = self.deployment, self.deployment.payment_token.address
        await self.do(self.renter, calls.transfer(deployment, PROVIDER.address, 1000 * UNIT))
        await self.do(self.provider, calls.approve(deployment, deployment.addresses["StakeVault"], 100 * UNIT))
        await self.do(self.provider, calls.stake(deployment, 100 * UNIT))
        await self.do(self.provider, calls.register_provider(deployment, "http://provider:9000"))
        params = ResourceParams("NVIDIA H200", 2, 16, 128, 1000, PRICE, token, 60, 7200, b"\x05" * 32)
        receipt = await self.do(self.provider, calls.register_resource(deployment, params))
        [event] = [events.decode(log, deployment.addresses) for log in receipt.logs]
        assert isinstance(event, events.ResourceRegistered)
        return event.resource_id

    async def rented(self, resource_id: ResourceId) -> JobId:
        """A job paid by permit, accepted and started."""
        deployment, escrow = self.deployment, self.deployment.addresses["PaymentEscrow"]
        request = JobRequest(resource_id, b"\x01" * 32, 600, PRICE, deployment.payment_token.address, b'{"v":1}')
        deadline = (await self.client.block("latest")).timestamp + 3600
        amount = settlement.lock_up(PRICE, 600)
        permit = typed_data.permit(
            *(deployment, RENTER.address, escrow, amount, await self.client.permit_nonce(RENTER.address), deadline),
            token_name=await self.client.token_name(),
        )
        signature = RENTER.sign_typed(permit)
        await self.do(self.renter, calls.create_job_with_permit(deployment, request, amount, deadline, signature))
        job_id = await self.client.active_job_of(resource_id)
        assert job_id is not None
        await self.do(self.provider, calls.accept_job(deployment, job_id))
        await self.do(self.provider, calls.start_job(deployment, job_id))
        return job_id


@pytest.fixture(scope="module")
def running_node() -> Iterator[tuple[Anvil, Deployment]]:
    members = tuple((oracle.address, f"http://oracle-{i}") for i, oracle in enumerate(ORACLES))
    with anvil() as node:
        yield node, deploy_market(node, members, 3)


@pytest.fixture
async def market(running_node: tuple[Anvil, Deployment], tmp_path: Path) -> AsyncIterator[Market]:
    node, deployment = running_node
    snapshot = node.rpc("evm_snapshot")
    client = await ChainClient.connect(node.url, deployment)
    renter = Sender(client, RENTER, tmp_path / "renter.db", poll_s=0.02)
    provider = Sender(client, PROVIDER, tmp_path / "provider.db", poll_s=0.02)
    yield Market(node, client, renter, provider)
    await renter.close()
    await provider.close()
    await client.close()
    node.rpc("evm_revert", snapshot)


async def test_default_behavior(market: Market) -> None:
    client = market.client
    resource_id = await market.listed()
    resource = await client.resource(resource_id)
    assert (resource.provider, resource.gpu_model, resource.gpu_count) == (PROVIDER.address, "NVIDIA H200", 2)
    assert (resource.price_per_hour, resource.metadata_cid) == (PRICE, b"\x05" * 32)
    assert resource.payment_token == market.deployment.payment_token.address
    assert await client.provider_resources(PROVIDER.address) == [resource_id]
    assert await client.endpoint_of(PROVIDER.address) == "http://provider:9000"

    job_id = await market.rented(resource_id)
    job = await client.job(job_id)
    assert (job.status, job.user, job.provider) == (JobStatus.RUNNING, RENTER.address, PROVIDER.address)
    assert (job.resource_id, job.duration, job.min_seconds) == (resource_id, 600, 60)
    assert job.locked_amount == settlement.lock_up(PRICE, 600)
    escrow = await client.escrow(job_id)
    assert (escrow.locked_amount, escrow.fee_bps, escrow.completed) == (job.locked_amount, FEE_BPS, False)
    deadline = await client.next_deadline(job_id)
    assert deadline.timestamp == job.started_at + 600
    assert await client.billable_seconds(job_id, job.started_at + 90) == 90
    assert await client.windows() == Windows(*WINDOWS)
    assert (await client.stake_of(PROVIDER.address)).active == 100 * UNIT == await client.required_stake(1)
    assert await client.allowance(RENTER.address) == 0


async def test_every_log_of_the_market_decodes(market: Market) -> None:
    resource_id = await market.listed()
    await market.rented(resource_id)
    head = await market.client.block("latest")
    raw = await market.client.logs(0, head.number)
    found = [events.decode(log, market.deployment.addresses) for log in raw]
    names = [type(event).__name__ for event in found if event is not None]
    assert {"CommitteeConfigured", "TokenAllowed", "ResourceRegistered", "JobCreated", "FundsLocked"} <= set(names)
    [configured] = [event for event in found if isinstance(event, events.CommitteeConfigured)]
    assert configured.signers == tuple(oracle.address for oracle in ORACLES)
    [created] = [event for event in found if isinstance(event, events.JobCreated)]
    assert (created.spec, created.image_cid) == (b'{"v":1}', "0x" + "01" * 32)
    created_block = await market.client.block(created.block_hash)
    assert created_block.number == created.block_number
    assert await market.client.logs_of_block(created.block_hash) == [
        log for log in raw if log["blockHash"] == created.block_hash
    ]


async def test_a_signed_receipt_completes_and_pays_at_once(market: Market) -> None:
    job_id = await market.rented(await market.listed())
    market.node.travel(200)
    signature = RENTER.sign_typed(typed_data.receipt(market.deployment, job_id, b"\x09" * 32, 150))
    wrong = calls.complete_job_with_receipt(market.deployment, job_id, b"\x09" * 32, 151, signature)
    with pytest.raises(MarketError) as refused:
        await market.do(market.provider, wrong)
    assert refused.value.code == "unauthorized"
    call = calls.complete_job_with_receipt(market.deployment, job_id, b"\x09" * 32, 150, signature)
    receipt = await market.do(market.provider, call)
    [done] = [
        event
        for event in (events.decode(log, market.deployment.addresses) for log in receipt.logs)
        if isinstance(event, events.JobCompleted)
    ]
    cost = settlement.cost(PRICE, 150)
    assert (done.reason, done.billable_seconds, done.final_cost) == (EndReason.PROVIDER_COMPLETED, 150, cost)
    assert await market.client.escrow_balance(PROVIDER.address) == cost - settlement.fee(cost, FEE_BPS)
    assert await market.client.escrow_balance(RENTER.address) == settlement.lock_up(PRICE, 600) - cost
    assert (await market.client.escrow(job_id)).completed


async def test_a_report_of_the_committee_is_accepted_and_its_outcomes_applied_once(market: Market) -> None:
    client, deployment = market.client, market.deployment
    job_id = await market.rented(await market.listed())
    market.node.travel(300)
    started = (await client.job(job_id)).started_at
    outcomes = [
        Outcome(OutcomeKind.DOWNTIME, job_id, PROVIDER.address, started + 100, started + 150),
        Outcome(OutcomeKind.VALIDATION, job_id, PROVIDER.address, value=3),
        Outcome(OutcomeKind.DOWNTIME, job_id, PROVIDER.address, started + 250, 0),
    ]
    committee = await client.committee()
    assert committee.members == tuple(Member(o.address, f"http://oracle-{i}") for i, o in enumerate(ORACLES))
    report = Report(committee.config_digest, committee.latest_seq + 1, 42, merkle.root(outcomes), 3, b"\x08" * 32)
    typed = typed_data.report(deployment, report)
    at, hash_report = deployment.addresses["OracleCommittee"], f"hashReport({calls.REPORT})"
    on_chain = await client.rpc.request(
        "eth_call", [{"to": at, "data": hex_of(encode_call(hash_report, calls.report_values(report)))}, "latest"]
    )
    assert bytes_of(on_chain) == typed_data.digest(typed)
    hash_outcome = encode_call(f"hashOutcome(uint32,{calls.OUTCOME})", 2, calls.outcome_values(outcomes[2]))
    on_chain = await client.rpc.request("eth_call", [{"to": at, "data": hex_of(hash_outcome)}, "latest"])
    assert bytes_of(on_chain) == merkle.leaf(2, outcomes[2])

    signed = {i: typed_data.compact_signature(ORACLES[i].sign_typed(typed)) for i in (0, 2, 3)}
    few = calls.submit_report(deployment, report, 0b0101, signed[0] + signed[2])
    with pytest.raises(MarketError) as refused:
        await market.do(market.renter, few)
    assert refused.value.details["contract_error"] == "ReportSignaturesTooFew"
    await market.do(market.renter, calls.submit_report(deployment, report, 0b1101, signed[0] + signed[2] + signed[3]))
    assert await client.outcomes_root(report.seq) == report.outcomes_root

    def applied(index: int) -> Call:
        return calls.apply_outcome(deployment, report.seq, index, outcomes[index], merkle.proof(outcomes, index))

    await market.do(market.renter, applied(0))
    assert (await client.job(job_id)).outage_seconds == 50
    assert await client.is_applied(report.seq, 0)
    assert not await client.is_applied(report.seq, 2)
    with pytest.raises(MarketError) as refused:
        await market.do(market.renter, applied(0))
    assert refused.value.details["contract_error"] == "OutcomeAlreadyApplied"
    with pytest.raises(MarketError) as refused:
        applied(1)
    assert refused.value.code == "invalid_argument"
    await market.do(market.renter, applied(2))
    await market.do(market.renter, calls.end_job(deployment, job_id))
    job = await client.job(job_id)
    assert (job.status, job.dead_at, job.ended_at) == (JobStatus.COMPLETED, started + 250, started + 250)
    reputation = await client.reputation(PROVIDER.address)
    assert (reputation.is_new, reputation.penalty) == (True, 100)


async def test_what_does_not_exist_is_not_found(market: Market) -> None:
    for question in (
        market.client.job("0x" + "12" * 32),
        market.client.resource("0x" + "12" * 32),
        market.client.block(10**9),
        market.client.block("0x" + "12" * 32),
    ):
        with pytest.raises(MarketError) as missing:
            await question
        assert missing.value.code == "not_found"
    assert await market.client.receipt("0x" + "12" * 32) is None
    assert await market.client.active_job_of("0x" + "12" * 32) is None
    assert bytes32("0x" + "12" * 32) == b"\x12" * 32


async def test_an_address_without_a_contract_is_a_wrong_deployment(market: Market) -> None:
    addresses = {**market.deployment.addresses, "Marketplace": RENTER.address}
    wrong = Deployment(31337, addresses, 0, market.deployment.payment_token)
    client = await ChainClient.connect(market.node.url, wrong)
    with pytest.raises(MarketError) as missing:
        await client.fee_bps()
    assert missing.value.code == "chain_mismatch"
    await client.close()
