"""The fake committee chain answers like the real contracts on a real node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain import calls, events, merkle, typed_data
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import Sender, load_account
from gpumarket.chain.types import Committee, JobRequest, Member, Outcome, OutcomeKind, Report, ResourceParams
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId
from oracle.market import Market
from tests.fakes import FakeCommitteeChain
from tests.parts.anvil import ANVIL_KEYS, anvil
from tests.parts.market import UNIT, deploy_market

pytestmark = pytest.mark.anvil

SIGNERS = [load_account(None, {"GPUMARKET_PRIVATE_KEY": key}) for key in ANVIL_KEYS]
PROVIDER, RENTER = SIGNERS[4], SIGNERS[5]
MEMBERS = tuple(Member(signer.address, f"http://m{i}") for i, signer in enumerate(SIGNERS[1:4]))
IMAGE = Cid.dag_pb(b"\x12" * 32)
PRICE = 3_600


@dataclass
class Side:
    """The real chain or the fake, with one job on it."""

    chain: Any
    sender: Any
    deployment: Deployment
    job_id: JobId
    committee: Committee

    def report(self, outcomes: list[Outcome], seq: int = 10) -> Report:
        root = merkle.root(outcomes)
        return Report(self.committee.config_digest, seq, 1, root, len(outcomes), b"\x01" * 32)

    async def submit(self, key: str, report: Report, signers: tuple[int, ...], mask: int) -> None:
        statement = typed_data.report(self.deployment, report)
        packed = b"".join(typed_data.compact_signature(SIGNERS[1 + i].sign_typed(statement)) for i in signers)
        await self.sender.execute(key, calls.submit_report(self.deployment, report, mask, packed))

    async def apply(self, key: str, outcomes: list[Outcome], index: int, seq: int = 10) -> None:
        proof = merkle.proof(outcomes, index)
        await self.sender.execute(key, calls.apply_outcome(self.deployment, seq, index, outcomes[index], proof))


async def real(tmp_path: Path) -> AsyncIterator[Side]:
    with anvil() as node:
        deployment = deploy_market(node, tuple((m.signer, m.endpoint) for m in MEMBERS), 2)
        client = await ChainClient.connect(node.url, deployment)
        admin, provider, renter = (
            Sender(client, signer, tmp_path / f"{n}.db", poll_s=0.02)
            for n, signer in enumerate((SIGNERS[0], PROVIDER, RENTER))
        )
        for signer in (PROVIDER, RENTER):
            await admin.execute(signer.address, calls.transfer(deployment, signer.address, 1_000 * UNIT))
        vault, escrow = deployment.addresses["StakeVault"], deployment.addresses["PaymentEscrow"]
        token = deployment.payment_token.address
        await provider.execute("a", calls.approve(deployment, vault, 200 * UNIT))
        await provider.execute("b", calls.stake(deployment, 200 * UNIT))
        await provider.execute("c", calls.register_provider(deployment, "http://127.0.0.1:1"))
        params = ResourceParams("CPU-only", 0, 1, 1, 1, PRICE, token, 1, 3_600)
        await provider.execute("d", calls.register_resource(deployment, params))
        (resource,) = await client.provider_resources(PROVIDER.address)
        await renter.execute("e", calls.approve(deployment, escrow, 1_000 * UNIT))
        await renter.execute("f", calls.create_job(deployment, JobRequest(resource, IMAGE.digest, 600, PRICE, token)))
        job_id = await client.active_job_of(resource)
        assert job_id is not None
        await provider.execute("g", calls.accept_job(deployment, job_id))
        await provider.execute("h", calls.start_job(deployment, job_id))
        yield Side(client, admin, deployment, job_id, await client.committee())
        await client.close()


async def fake(tmp_path: Path) -> AsyncIterator[Side]:
    async for side in real(tmp_path):
        chain = FakeCommitteeChain(side.deployment, MEMBERS, 2, (await side.chain.block("latest")).timestamp)
        chain.open_job(await side.chain.job(side.job_id), IMAGE)
        yield Side(chain, chain, replace(side.deployment, block_number=0), side.job_id, await chain.committee())


@pytest.fixture(params=[real, fake], ids=["real", "fake"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    async for found in request.param(tmp_path):
        yield found


def timeout_of(side: Side, value: int) -> Outcome:
    return Outcome(OutcomeKind.TIMEOUT, side.job_id, PROVIDER.address, 1, 2, value)


async def test_the_fake_reads_like_the_chain(side: Side) -> None:
    assert side.committee.members == MEMBERS
    assert (side.committee.threshold, side.committee.latest_seq) == (2, 0)
    assert (await side.chain.job(side.job_id)).status is JobStatus.RUNNING
    assert len(await side.chain.provider_resources(PROVIDER.address)) == 1
    assert await side.chain.provider_resources(RENTER.address) == []
    assert await side.chain.outcomes_root(1) == bytes(32)
    with pytest.raises(MarketError) as missing:
        await side.chain.job("0x" + "99" * 32)
    assert missing.value.code == "not_found"
    head = await side.chain.block("latest")
    found = [events.decode(raw, side.deployment.addresses) for raw in await side.chain.logs(0, head.number)]
    (created,) = [event for event in found if isinstance(event, events.JobCreated)]
    assert (created.job_id, created.image_cid) == (side.job_id, "0x" + IMAGE.digest.hex())
    market = Market(side.chain)
    await market.refresh()
    assert market.jobs[side.job_id].image == str(IMAGE)


async def test_the_fake_takes_and_refuses_what_the_contract_does(side: Side) -> None:
    outcomes = [timeout_of(side, 1), timeout_of(side, 2), timeout_of(side, 3)]
    report = side.report(outcomes)

    async def code(step: Any) -> str:
        with pytest.raises(MarketError) as refused:
            await step
        return refused.value.code

    assert await code(side.apply("early", outcomes, 0)) == "not_found"
    assert await code(side.submit("few", report, (0,), 0b001)) == "unauthorized"
    assert await code(side.submit("order", report, (1, 0), 0b011)) == "unauthorized"
    await side.submit("good", report, (0, 2), 0b101)
    assert await side.chain.outcomes_root(10) == report.outcomes_root
    assert (await side.chain.committee()).latest_seq == 10
    assert await code(side.submit("stale", report, (0, 2), 0b101)) == "deadline_passed"
    assert not await side.chain.is_applied(10, 1)
    await side.apply("one", outcomes, 1)
    assert await side.chain.is_applied(10, 1)
    assert await code(side.apply("again", outcomes, 1)) == "deadline_passed"
    forged = [outcomes[0], outcomes[1], timeout_of(side, 9)]
    assert await code(side.apply("forged", forged, 2)) == "proof_invalid"
