"""A real market on anvil, and lawful random moves on it by its unlocked accounts."""

from __future__ import annotations

from random import Random

from gpumarket.chain import calls
from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.types import JobRequest, ResourceParams
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, ResourceId
from tests.parts.anvil import Anvil
from tests.parts.market import UNIT, accounts, deploy_market, transact

MODELS = ("NVIDIA H200", "NVIDIA A100", "CPU-only")


class Play:
    """Two providers with three machines in all, one renter."""

    def __init__(self, node: Anvil) -> None:
        self.node = node
        self.deployment: Deployment = deploy_market(node)
        self.admin, *self.providers, self.renter = accounts(node)[:4]
        self.resources: list[ResourceId] = []
        self.count = 0
        d = self.deployment
        for account in (*self.providers, self.renter):
            self.send(self.admin, calls.transfer(d, account, 10_000 * UNIT))
            self.send(account, calls.approve(d, d.addresses["StakeVault"], 10_000 * UNIT))
            self.send(account, calls.approve(d, d.addresses["PaymentEscrow"], 10_000 * UNIT))
        for number, provider in enumerate(self.providers):
            self.send(provider, calls.stake(d, 1_000 * UNIT))
            self.send(provider, calls.register_provider(d, f"http://host-{number}.example"))
            for machine in range(2 - number):
                params = ResourceParams(
                    gpu_model=MODELS[number + machine],
                    gpu_count=1,
                    vcpu=8,
                    memory_gb=64,
                    storage_gb=100,
                    price_per_hour=(number + 1) * UNIT,
                    payment_token=d.payment_token.address,
                    min_seconds=60,
                    max_seconds=86_400,
                    metadata_cid=bytes(32),
                )
                self.send(provider, calls.register_resource(d, params))
                self.resources.append(ResourceId(provider.lower() + f"{machine + 1:024x}"))

    def send(self, sender: Address, call: Call) -> None:
        transact(self.node, sender, call.to, call.data)

    async def move(self, client: ChainClient, random: Random) -> None:
        """One transaction that the contracts allow now."""
        d = self.deployment
        self.count += 1
        resource_id = random.choice(self.resources)
        provider = (await client.resource(resource_id)).provider
        job_id = await client.active_job_of(resource_id)
        if random.random() < 0.2:
            self.send(provider, calls.update_pricing(d, resource_id, random.randrange(1, 5) * UNIT))
            return
        if job_id is None:
            request = JobRequest(
                resource_id=resource_id,
                image_cid=bytes([self.count % 256]) * 32,
                duration=random.randrange(600, 6_000),
                max_price_per_hour=100 * UNIT,
                payment_token=d.payment_token.address,
                spec=b"",
            )
            self.send(self.renter, calls.create_job(d, request))
            return
        match (await client.job(job_id)).status:
            case JobStatus.CREATED:
                if random.random() < 0.2:
                    self.send(self.renter, calls.cancel_job(d, job_id))
                else:
                    self.send(provider, calls.accept_job(d, job_id))
            case JobStatus.ACCEPTED:
                if random.random() < 0.2:
                    self.send(self.renter, calls.dispute_job(d, job_id, "never started"))
                else:
                    self.send(provider, calls.start_job(d, job_id))
            case _:
                self.send(*self._end(provider, job_id, random))

    def _end(self, provider: Address, job_id: str, random: Random) -> tuple[Address, Call]:
        d = self.deployment
        return random.choice(
            (
                (self.renter, calls.stop_job(d, job_id)),
                (provider, calls.complete_job(d, job_id, bytes([7]) * 32)),
                (self.renter, calls.dispute_job(d, job_id, "wrong answer")),
                (self.renter, calls.extend_job(d, job_id, 100)),
            )
        )
