"""One agent on a fake chain and a fake engine; its store, journal and logs are real. Time is the chain's."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from gpumarket.chain import calls
from gpumarket.chain.events import JobCreated, decode
from gpumarket.chain.sender import Signer, load_account
from gpumarket.chain.types import Job, JobRequest, ResourceParams
from gpumarket.images.policy import Policy
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import add_path
from gpumarket.ipfs.store import BlockStore
from gpumarket.log import Log
from gpumarket.rules.job_spec import JobSpec, encode
from gpumarket.rules.units import JobId, ResourceId
from provider_agent.agent import Agent
from provider_agent.container import Machine, Market, container_name
from provider_agent.follow import Follower
from provider_agent.image import ImageDesk
from provider_agent.job import Desk
from provider_agent.journal import Journal
from provider_agent.listing import Lister, Listing
from provider_agent.logs import LogHub
from provider_agent.offer import Limits
from provider_agent.ports import Fault
from provider_agent.pump import LogPump
from provider_agent.results import ResultsDesk
from provider_agent.state import JobRow
from tests.fakes import FakeChain, FakeProgram, FakeRuntime, FakeSender, MemoryBlocks
from tests.parts.anvil import ANVIL_KEYS
from tests.unit.images.layouts import Layout, layout

PROGRAM = FakeProgram(lines=("one", "two"), files={"answer": b"42"}, exit_code=3, seconds=5)
PRICE = 3_600


def signer(number: int) -> Signer:
    return load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[number]})


@dataclass
class World:
    """Everything around the agent survives it; `life` is one agent process.

    `transport` answers the agent's HTTP requests; by default nobody does.
    """

    folder: Path
    chain: FakeChain = field(default_factory=FakeChain)
    store: BlockStore = field(default_factory=MemoryBlocks)
    policy: Policy = field(default_factory=Policy)
    transport: httpx.AsyncBaseTransport | None = None
    results_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.provider, self.renter = signer(1), signer(2)
        self.runtime = FakeRuntime(lambda: float(self.chain.now), PROGRAM)
        self.sender = FakeSender(self.chain, self.provider)
        self.renting = FakeSender(self.chain, self.renter)
        self.market = Market(self.chain.chain_id, self.chain.deployment.addresses["Marketplace"], "0xbirth")
        self.output = io.StringIO()
        self.log = Log("agent", "debug", stream=self.output)
        self.journal = Journal(self.folder / "journal.db")
        self.logs = LogHub(self.folder / "logs")

    def image(self, made: Layout | None = None, store: BlockStore | None = None) -> Cid:
        """Put an image where the agent has it already, or into another store."""
        folder = (made or layout()).write(self.folder / "layout")
        return add_path(store or self.store, folder).cid

    async def list_machine(self) -> ResourceId:
        lister = Lister(self.chain, self.sender, self.journal, self.provider.address, self.log)
        return await lister.ensure(Listing("http://agent", self.params()))

    def params(self, price: int = PRICE, gpus: int = 0) -> ResourceParams:
        token = self.chain.deployment.payment_token.address
        return ResourceParams("H200" if gpus else "CPU-only", gpus, 2, 4, 100, price, token, 10, 3600)

    async def rent(self, resource: ResourceId, image: Cid, *, duration: int = 60, spec: bytes | None = None) -> JobId:
        request = JobRequest(
            resource_id=resource,
            image_cid="0x" + image.digest.hex(),
            duration=duration,
            max_price_per_hour=PRICE,
            payment_token=self.chain.deployment.payment_token.address,
            spec=encode(JobSpec(sources=("http://renter",))) if spec is None else spec,
        )
        key = f"rent {len(self.chain.blocks)}"
        receipt = await self.renting.execute(key, calls.create_job(self.chain.deployment, request))
        events = (decode(log, self.chain.deployment.addresses) for log in receipt.logs)
        return next(event.job_id for event in events if isinstance(event, JobCreated))

    def life(self, resource: ResourceId, fault: Fault = lambda _: None, *, draining: bool = False) -> Agent:
        http = httpx.AsyncClient(transport=self.transport or httpx.MockTransport(lambda _: httpx.Response(404)))
        clock: Callable[[], float] = lambda: float(self.chain.now)  # noqa: E731
        desk = Desk(
            chain=self.chain,
            transactions=self.sender,
            runtime=self.runtime,
            journal=self.journal,
            images=ImageDesk(self.store, http, self.policy, (), None),
            results=ResultsDesk(
                self.runtime, self.store, self.provider, self.chain.deployment, self.folder / "work", self.results_bytes
            ),
            logs=self.logs,
            pump=LogPump(self.runtime, self.logs, self.log, lambda: None),
            market=self.market,
            machine=Machine((), 1 << 30, 1.0, self.results_bytes, 0),
            resource_id=resource,
            limits=Limits(10, 3600),
            registry_port=5000,
            leases=self.folder / "leases",
            poll_s=0.01,
            clock=clock,
            log=self.log,
            fault=fault,
        )
        return Agent(desk, Follower(self.chain, self.journal, self.provider.address, clock), draining=draining)

    async def drive(self, agent: Agent, done: Callable[[], bool], *, step: int = 1) -> None:
        """Let chain time pass, `step` seconds at a time, until `done`."""
        for _ in range(400):
            await agent.tick()
            await agent.settle_tasks()
            if done():
                return
            self.chain.advance(step)
        raise AssertionError(f"not reached; the journal says {self.journal.open_jobs()}")

    def row(self, job_id: JobId) -> JobRow:
        found = self.journal.get(job_id)
        assert found is not None
        return found

    def name(self, job_id: JobId) -> str:
        return container_name(self.market, job_id)

    def lost_journal(self) -> None:
        """As if the file had gone between two lives."""
        self.journal.close()
        for path in self.folder.glob("journal.db*"):
            path.unlink()
        self.journal = Journal(self.folder / "journal.db")

    async def job(self, job_id: JobId) -> Job:
        return await self.chain.job(job_id)
