"""Fakes for unit tests. Each is held against the real part by a contract test in tests/integration."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from eth_abi.abi import encode as abi_encode

from gpumarket.chain import calls, events, merkle, typed_data
from gpumarket.chain.calls import Call
from gpumarket.chain.codec import argument_types, bytes32, checksum, decode, encode_call, hex_of, keccak, selector
from gpumarket.chain.deployments import CONTRACTS, Deployment, PaymentToken
from gpumarket.chain.reverts import decode_revert
from gpumarket.chain.sender import Signer
from gpumarket.chain.types import (
    Block,
    Committee,
    Deadline,
    Job,
    Member,
    Outcome,
    OutcomeKind,
    RawLog,
    Receipt,
    Report,
    Reputation,
    Resource,
    Stake,
    Windows,
)
from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.store import Collected, Pin
from gpumarket.rules import settlement
from gpumarket.rules.job_state import EndReason, JobStatus, Verdict
from gpumarket.rules.reputation import JobOutcome
from gpumarket.rules.units import NO_ID, Address, JobId, ResourceId
from provider_agent.runtime import (
    SPEC_LABEL,
    Container,
    ContainerId,
    ContainerSpec,
    ContainerState,
    DiskLimit,
    EngineInfo,
    LogLine,
    Stats,
    Tier,
)
from provider_agent.sandbox import spec_digest


@dataclass(frozen=True)
class FakeProgram:
    """What a fake image does when run: prints, leaves files, exits after `seconds` (None: never by itself)."""

    lines: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    exit_code: int = 0
    seconds: float | None = None
    ignores_sigterm: bool = False


@dataclass
class _FakeContainer:
    spec: ContainerSpec
    labels: dict[str, str]
    id: ContainerId
    program: FakeProgram
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    stop_reason: str = ""


def _write_tree(dest: Path, files: Mapping[str, bytes]) -> None:
    dest.mkdir(parents=True)
    for name, data in files.items():
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_bytes(data)


class FakeRuntime:
    """A container engine in memory; see `provider_agent.runtime.Runtime`.

    Attributes:
        images: programs by tag; what `pull` and `load` bring is `default`.
        down: while true every call raises `docker_unreachable`.
        calls: names of the calls that changed something, in order.
    """

    def __init__(self, clock: Callable[[], float], default: FakeProgram | None = None) -> None:
        self._clock = clock
        self._containers: dict[str, _FakeContainer] = {}
        self.default = default or FakeProgram()
        self.images: dict[str, FakeProgram] = {}
        self.down = False
        self.calls: list[str] = []

    async def ping(self) -> EngineInfo:
        self._check()
        return EngineInfo(
            version="27.0.0", api_version="1.46", storage_driver="overlay2", cgroup_version="2", rootless=False,
            runtimes=("runc",), cdi=False, nvidia=False, tier=Tier.T0, disk_limit=DiskLimit.LOOP, security=(),
            architecture="x86_64", containers_running=sum(self._seen(c).running for c in self._containers.values()),
        )  # fmt: skip

    async def pull(self, ref: str, tag: str) -> str:
        self._check(f"pull {ref}")
        self.images.setdefault(tag, self.default)
        return "sha256:" + hashlib.sha256(ref.partition("@")[2].encode()).hexdigest()

    async def load(self, archive: Path, tag: str) -> str:
        self._check(f"load {tag}")
        self.images.setdefault(tag, self.default)
        return "sha256:" + hashlib.sha256(str(archive).encode()).hexdigest()

    async def create(self, spec: ContainerSpec) -> ContainerId:
        self._check()
        if spec.network:
            raise MarketError("machine_unsuitable", "this host rents out no network access")
        held = self._containers.get(spec.name)
        if held is None:
            if spec.image not in self.images:
                raise MarketError("docker_failed", f"no such image {spec.image}")
            self.calls.append(f"create {spec.name}")
            labels = {**spec.labels, SPEC_LABEL: spec_digest(spec)}
            identity = ContainerId(hashlib.sha256(f"{spec.name} {len(self.calls)}".encode()).hexdigest())
            held = _FakeContainer(spec, labels, identity, self.images[spec.image])
            self._containers[spec.name] = held
        if held.labels[SPEC_LABEL] != spec_digest(spec):
            raise MarketError("docker_failed", f"another container is named {spec.name}")
        return held.id

    async def start(self, container: ContainerId) -> None:
        held = self._need(container)
        if held.started_at is None:
            self.calls.append(f"start {held.spec.name}")
            held.started_at = self._clock()

    async def stop(self, container: ContainerId, grace_s: float) -> None:
        self._check()
        held = self._find(container)
        if held is not None and self._seen(held).running:
            self.calls.append(f"stop {held.spec.name}")
            self._end(held, 137 if held.program.ignores_sigterm else 143)

    async def kill(self, container: ContainerId) -> None:
        self._check()
        held = self._find(container)
        if held is not None and self._seen(held).running:
            self.calls.append(f"kill {held.spec.name}")
            self._end(held, 137)

    async def remove(self, name_or_id: str) -> None:
        self._check()
        held = self._find(name_or_id)
        if held is not None:
            self.calls.append(f"remove {held.spec.name}")
            del self._containers[held.spec.name]

    async def inspect(self, name_or_id: str) -> Container | None:
        self._check()
        held = self._find(name_or_id)
        return self._seen(held) if held else None

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        self._check()
        return [
            self._seen(held)
            for held in self._containers.values()
            if all(key in held.labels and value in ("", held.labels[key]) for key, value in labels.items())
        ]

    async def logs(self, container: ContainerId, since: str = "", follow: bool = True) -> AsyncIterator[LogLine]:
        held = self._need(container, "not_found")
        for number, text in enumerate(held.program.lines if held.started_at is not None else ()):
            ts = f"2026-01-01T00:00:00.{number:09d}Z"
            if ts > since:
                yield LogLine(ts, "stdout", text)
        # Other tasks of the test must end it; the time that passes is theirs.
        while follow and self._seen(held).running:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def stats(self, container: ContainerId) -> Stats:
        held = self._need(container)
        running = self._seen(held).running
        elapsed = self._clock() - held.started_at if running and held.started_at is not None else 0.0
        return Stats(elapsed, 1 << 20 if running else 0, held.spec.memory_bytes, 1 if running else 0)

    async def copy_out(self, container: ContainerId, path: str, dest: Path, max_bytes: int) -> int:
        held = self._need(container, "not_found")
        total = sum(len(data) for data in held.program.files.values())
        if total > max_bytes:
            raise MarketError("image_too_large", f"the results hold more than {max_bytes} bytes")
        _write_tree(dest, held.program.files if path == held.spec.results_path else {})
        return total

    async def remove_image(self, tag: str) -> None:
        self._check(f"remove_image {tag}")
        self.images.pop(tag, None)

    def finish(self, name: str, exit_code: int = 0) -> None:
        """Let a running container exit now."""
        self._end(self._containers[name], exit_code)

    def _check(self, call: str = "") -> None:
        if self.down:
            raise MarketError("docker_unreachable", "the Docker Engine does not answer")
        if call:
            self.calls.append(call)

    def _find(self, name_or_id: str) -> _FakeContainer | None:
        return next((c for c in self._containers.values() if name_or_id in (c.spec.name, c.id)), None)

    def _need(self, container: ContainerId, code: str = "docker_failed") -> _FakeContainer:
        self._check()
        held = self._find(container)
        if held is None:
            raise MarketError(code, f"no such container {container}")
        return held

    def _end(self, held: _FakeContainer, exit_code: int) -> None:
        held.exit_code, held.finished_at = exit_code, self._clock()

    def _seen(self, held: _FakeContainer) -> Container:
        seconds = held.program.seconds
        going = held.started_at is not None and held.finished_at is None
        if going and seconds is not None and self._clock() >= (held.started_at or 0) + seconds:
            held.exit_code, held.finished_at = held.program.exit_code, (held.started_at or 0) + seconds
        state = ContainerState.RUNNING if held.started_at is not None else ContainerState.CREATED
        if held.finished_at is not None:
            state = ContainerState.EXITED
        return Container(
            held.id, held.spec.name, state, held.exit_code, False, held.started_at, held.finished_at, held.labels,
            held.spec.image, held.stop_reason,
        )  # fmt: skip


class MemoryBlocks:
    """A block store in memory. Checked against the real ones by tests/integration/ipfs/test_block_stores.py."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.pinned: dict[Cid, str] = {}

    def get(self, cid: Cid) -> bytes | None:
        block = self.blocks.get(cid.digest)
        if block is not None and not cid.matches(block):
            raise MarketError("image_block_corrupt", f"block {cid} is damaged", cid=str(cid))
        return block

    def put(self, cid: Cid, block: bytes) -> None:
        self.blocks[cid.digest] = block

    def has(self, cid: Cid) -> bool:
        return cid.digest in self.blocks

    def pin(self, cid: Cid, name: str = "") -> None:
        self._reachable(cid)
        self.pinned[cid] = name

    def unpin(self, cid: Cid) -> None:
        self.pinned.pop(cid, None)

    def pins(self) -> tuple[Pin, ...]:
        return tuple(Pin(cid, name) for cid, name in sorted(self.pinned.items(), key=lambda item: str(item[0])))

    def gc(self, now: float) -> Collected:
        keep = {digest for cid in self.pinned for digest in self._reachable(cid)}
        gone = {digest: block for digest, block in self.blocks.items() if digest not in keep}
        for digest in gone:
            del self.blocks[digest]
        return Collected(len(gone), sum(map(len, gone.values())))

    def _reachable(self, cid: Cid) -> set[bytes]:
        block = self.get(cid)
        if block is None:
            raise MarketError("image_block_missing", f"block {cid} is not in the store", cid=str(cid))
        return {cid.digest}.union(*(self._reachable(link.cid) for link in unixfs.parse(cid, block).links))


class FakeNode:
    """A node whose chain a test writes: blocks with raw logs, finality, reorganizations, silence.

    Fits `indexer.follow.Chain`. A block's hash depends on its parent and its logs, as in reality.
    """

    def __init__(self, *, finality_depth: int = 1_000) -> None:
        self.finality_depth = finality_depth
        self.silent = False
        self.blocks: list[Block] = []
        self.requests = 0
        self._logs: dict[str, list[dict[str, Any]]] = {}
        self.add([])

    def add(self, logs: Sequence[dict[str, Any]], *, salt: str = "") -> Block:
        """Append a block with these logs (address, topics, data); their places are filled in."""
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else "0x" + "00" * 32
        seed = json.dumps([number, parent, salt, list(logs)])
        block = Block(number, "0x" + hashlib.sha256(seed.encode()).hexdigest(), parent, 1_700_000_000 + 2 * number)
        self.blocks.append(block)
        self._logs[block.hash] = [
            {
                **log,
                "blockNumber": hex(number),
                "blockHash": block.hash,
                "transactionHash": "0x" + hashlib.sha256(f"{block.hash}{index}".encode()).hexdigest(),
                "logIndex": hex(index),
            }
            for index, log in enumerate(logs)
        ]
        return block

    def drop(self, depth: int) -> None:
        """Forget the newest blocks; what is added next is another history."""
        del self.blocks[len(self.blocks) - depth :]

    async def block(self, which: int | str) -> Block:
        self._speak()
        number = which if isinstance(which, int) else len(self.blocks) - 1
        if which == "finalized":
            number = max(0, number - self.finality_depth)
        if not 0 <= number < len(self.blocks):
            raise MarketError("not_found", f"the node has no block {which}")
        return self.blocks[number]

    async def logs(self, from_block: int, to_block: int) -> list[dict[str, Any]]:
        self._speak()
        return [log for block in self.blocks[from_block : to_block + 1] for log in self._logs[block.hash]]

    async def logs_of_block(self, block_hash: str) -> list[dict[str, Any]]:
        self._speak()
        return list(self._logs[block_hash])

    def _speak(self) -> None:
        self.requests += 1
        if self.silent:
            raise MarketError("chain_unreachable", "the node is silent")


class FakeChain:
    """A market in memory with the contracts' rules for everything the provider, renter and clock can do.

    Money: every account starts with `wallet` base units, approved to all. A transaction is a block. `silent` makes the
    node unreachable. It stands in for a `ChainClient`, a `FakeSender` for a `Sender`.
    """

    def __init__(
        self, *, now: int = 1_700_000_000, wallet: int = 10**24, stake_per_resource: int = 100 * 10**18
    ) -> None:
        names = enumerate(CONTRACTS, 0xC0)
        addresses = {name: checksum("0x" + f"{number:02x}" * 20) for number, name in names}
        self.deployment = Deployment(31337, addresses, 1, PaymentToken(addresses["GPUToken"], "GPU", 18))
        self.chain_id = self.deployment.chain_id
        self.silent = False
        self.now = now
        self.blocks = [Block(0, "0x" + "b0" * 32, NO_ID, now)]
        self.market_windows = Windows(120, 300, 4, 60)
        self.market_fee_bps = 200
        self.members = Committee((), 1, bytes(32), 0)
        self._wallet = wallet
        self._stake_per_resource = stake_per_resource
        self._logs: list[RawLog] = []
        self._receipts: dict[str, Receipt] = {}
        self._wallets: dict[Address, int] = {}
        self._balances: dict[Address, int] = {}
        self._stakes: dict[Address, int] = {}
        self._endpoints: dict[Address, str] = {}
        self._resources: dict[ResourceId, Resource] = {}
        self._jobs: dict[JobId, Job] = {}
        self._paid: set[JobId] = set()
        self._last_job: dict[ResourceId, JobId] = {}
        self._scores: dict[Address, Reputation] = {}

    # reads

    async def block(self, which: int | str) -> Block:
        self._speak()
        if isinstance(which, str):
            return self.blocks[-1]
        if which >= len(self.blocks):
            raise MarketError("not_found", f"the node has no block {which}")
        return self.blocks[which]

    async def logs(self, from_block: int, to_block: int) -> list[RawLog]:
        self._speak()
        return [log for log in self._logs if from_block <= int(log["blockNumber"], 16) <= to_block]

    async def logs_of_block(self, block_hash: str) -> list[RawLog]:
        self._speak()
        return [log for log in self._logs if log["blockHash"] == block_hash]

    async def receipt(self, tx_hash: str) -> Receipt | None:
        self._speak()
        return self._receipts.get(tx_hash)

    async def job(self, job_id: str) -> Job:
        self._speak()
        if job_id not in self._jobs:
            raise MarketError("not_found", f"there is no job {job_id}")
        return self._jobs[JobId(job_id)]

    async def active_job_of(self, resource_id: str) -> JobId | None:
        self._speak()
        return self._active(ResourceId(resource_id))

    async def next_deadline(self, job_id: str) -> Deadline:
        self._speak()
        job = self._jobs[JobId(job_id)]
        windows = self.market_windows
        if job.status is JobStatus.CREATED:
            return Deadline(selector("expireJob(bytes32)"), job.since + windows.accept)
        if job.status is JobStatus.ACCEPTED:
            return Deadline(selector("expireJob(bytes32)"), job.since + windows.start)
        if job.status is JobStatus.RUNNING:
            return Deadline(selector("endJob(bytes32)"), job.dead_at or job.started_at + job.duration)
        if job.status is JobStatus.COMPLETED and job.job_id not in self._paid:
            return Deadline(selector("settleJob(bytes32)"), job.since + windows.dispute)
        if job.status is JobStatus.DISPUTED:
            return Deadline(selector("resolveByTimeout(bytes32)"), job.since + windows.verdict)
        return Deadline(bytes(4), 0)

    async def resource(self, resource_id: str) -> Resource:
        self._speak()
        return self._resource(ResourceId(resource_id))

    async def provider_resources(self, provider: Address) -> list[ResourceId]:
        self._speak()
        return [id_ for id_, resource in self._resources.items() if resource.provider == provider]

    async def endpoint_of(self, provider: Address) -> str:
        self._speak()
        return self._endpoints.get(provider, "")

    async def stake_of(self, account: Address) -> Stake:
        self._speak()
        return Stake(self._stakes.get(account, 0), 0, 0)

    async def required_stake(self, resources: int) -> int:
        self._speak()
        return resources * self._stake_per_resource

    async def token_balance(self, account: Address, token: Address | None = None) -> int:
        self._speak()
        return self._wallets.get(account, self._wallet)

    async def escrow_balance(self, account: Address, token: Address | None = None) -> int:
        self._speak()
        return self._balances.get(account, 0)

    async def native_balance(self, account: Address) -> int:
        self._speak()
        return 10**21

    async def gas_price(self) -> int:
        self._speak()
        return 10**9

    async def allowance(self, owner: Address, spender: Address | None = None, token: Address | None = None) -> int:
        self._speak()
        return 2**256 - 1

    async def permit_nonce(self, owner: Address, token: Address | None = None) -> int:
        self._speak()
        return 0

    async def token_name(self, token: Address | None = None) -> str:
        self._speak()
        return "GPU Token"

    async def fee_bps(self) -> int:
        self._speak()
        return self.market_fee_bps

    async def windows(self) -> Windows:
        self._speak()
        return self.market_windows

    async def committee(self) -> Committee:
        self._speak()
        return self.members

    async def reputation(self, provider: Address) -> Reputation:
        self._speak()
        return self._scores.get(provider, Reputation(0, True, 0, 0, 0, 0, 0, 0))

    # time, and what only the committee can do

    def advance(self, seconds: int) -> None:
        """Move the clock and mine an empty block there."""
        self.now += seconds
        self._mine()

    def report_dead(self, job_id: str, timestamp: int) -> None:
        """The committee found the host dead since `timestamp`."""
        job = self._jobs[JobId(job_id)]
        self._jobs[job.job_id] = replace(job, dead_at=max(timestamp, job.started_at))
        self._emit("Marketplace", "DeathRecorded", bytes32(job_id), timestamp)
        self._mine()

    def resolve(self, job_id: str, verdict: Verdict) -> None:
        """The committee decides a dispute."""
        self._resolve(self._in(bytes32(job_id), JobStatus.DISPUTED), verdict, False)
        self._mine()

    # transactions

    def apply(self, sender: Address, call: Call) -> Receipt:
        """Run a call as `sender` in a block of its own; raises what the contracts would refuse it with."""
        self._speak()
        by_selector = {selector(signature): (signature, handler) for signature, handler in self._entry_points().items()}
        signature, handler = by_selector[call.data[:4]]
        if self.now == self.blocks[-1].timestamp:
            self.now += 1  # as on a real chain, no two blocks have one time
        count = len(self._logs)
        handler(sender, *decode(argument_types(signature), call.data[4:]))
        block = self._mine()
        tx_hash = hex_of(keccak(block.hash.encode()))
        logs = tuple(self._logs[count:])
        for log in logs:
            log["transactionHash"] = tx_hash
        receipt = Receipt(tx_hash, block.number, block.hash, 100_000, 10**9, True, logs, sender, call.to)
        self._receipts[tx_hash] = receipt
        return receipt

    def _entry_points(self) -> dict[str, Callable[..., None]]:
        return {
            "approve(address,uint256)": lambda sender, spender, amount: None,
            "stake(uint256)": self._stake,
            "registerProvider(string)": self._register_provider,
            f"registerResource({calls.RESOURCE_PARAMS})": self._register_resource,
            "updateAvailability(bytes32,bool)": self._update_availability,
            "updatePricing(bytes32,uint256)": self._update_pricing,
            f"createJob({calls.JOB_REQUEST})": self._create,
            f"createJobWithPermit({calls.JOB_REQUEST},{calls.PERMIT})": lambda sender, request, _: self._create(
                sender, request
            ),
            "cancelJob(bytes32)": self._cancel_job,
            "acceptJob(bytes32)": self._accept,
            "startJob(bytes32)": self._start,
            "completeJob(bytes32,bytes32)": self._complete_job,
            "stopJob(bytes32)": self._stop,
            "extendJob(bytes32,uint40)": self._extend,
            "endJob(bytes32)": self._end,
            "expireJob(bytes32)": self._expire,
            "settleJob(bytes32)": self._settle,
            "disputeJob(bytes32,string)": self._dispute,
            "resolveByTimeout(bytes32)": self._resolve_by_timeout,
            "withdraw(address,uint256,address)": self._withdraw,
        }

    def _stake(self, sender: Address, amount: int) -> None:
        self._take_from_wallet(sender, amount)
        self._stakes[sender] = self._stakes.get(sender, 0) + amount
        self._emit("StakeVault", "Staked", sender, sender, amount)

    def _withdraw(self, sender: Address, token: str, amount: int, to: str) -> None:
        held = self._balances.get(sender, 0)
        if held < amount:
            raise _refusal("BalanceInsufficient(address,address,uint256,uint256)", sender, token, held, amount)
        self._balances[sender] = held - amount
        receiver = checksum(to)
        self._wallets[receiver] = self._wallets.get(receiver, self._wallet) + amount
        self._emit("PaymentEscrow", "Withdrawn", sender, token, to, amount)

    def _register_provider(self, sender: Address, endpoint: str) -> None:
        self._endpoints[sender] = endpoint
        self._emit("ResourceRegistry", "ProviderRegistered", sender, endpoint)

    def _register_resource(self, sender: Address, params: tuple[Any, ...]) -> None:
        if sender not in self._endpoints:
            raise _refusal("ProviderNotRegistered(address)", sender)
        number = sum(resource.provider == sender for resource in self._resources.values()) + 1
        staked, required = self._stakes.get(sender, 0), number * self._stake_per_resource
        if staked < required:
            raise _refusal("ProviderStakeTooLow(address,uint256,uint256)", sender, staked, required)
        id_ = ResourceId(sender.lower() + f"{number:024x}")
        model, gpus, vcpu, memory, storage, price, token, shortest, longest, metadata = params
        self._resources[id_] = Resource(
            *(id_, sender, model, gpus, vcpu, memory, storage, price, checksum(token), shortest, longest),
            *(True, 0, 0, self.now, metadata),
        )
        self._emit("ResourceRegistry", "ResourceRegistered", bytes32(id_), sender, *params)

    def _update_availability(self, sender: Address, resource_id: bytes, available: bool) -> None:
        resource = self._owned(sender, resource_id)
        self._resources[resource.resource_id] = replace(resource, available=available)
        self._emit("ResourceRegistry", "AvailabilityUpdated", resource_id, available)

    def _update_pricing(self, sender: Address, resource_id: bytes, price: int) -> None:
        resource = self._owned(sender, resource_id)
        self._resources[resource.resource_id] = replace(resource, price_per_hour=price)
        self._emit("ResourceRegistry", "PricingUpdated", resource_id, price)

    def _create(self, sender: Address, request: tuple[Any, ...]) -> None:
        resource_id, image, duration, maximum, token, spec = request
        resource = self._resource(ResourceId(hex_of(resource_id)))
        price = resource.price_per_hour
        if price > maximum:
            raise _refusal("PriceAboveMaximum(uint128,uint128)", price, maximum)
        if checksum(token) != resource.payment_token:
            raise _refusal("PaymentTokenMismatch(address,address)", resource.payment_token, token)
        if len(spec) > 4_096:
            raise _refusal("SpecTooLarge(uint256,uint256)", len(spec), 4_096)
        if not resource.available:
            raise _refusal("ResourceUnavailable(bytes32)", resource_id)
        if not resource.min_seconds <= duration <= resource.max_seconds:
            limits = (duration, resource.min_seconds, resource.max_seconds)
            raise _refusal("DurationOutOfRange(uint40,uint40,uint40)", *limits)
        active = self._active(resource.resource_id)
        if active is not None:
            raise _refusal("ResourceBusy(bytes32,bytes32)", resource_id, bytes32(active))
        amount = settlement.lock_up(price, duration)
        previous = bytes32(self._last_job.get(resource.resource_id, JobId(NO_ID)))
        terms = abi_encode(
            ["uint256", "address", "bytes32", "address", "bytes32", "bytes32", "uint40", "uint128", "bytes32"],
            (
                *(self.chain_id, self.deployment.addresses["Marketplace"], previous, sender, resource_id, image),
                *(duration, price, keccak(spec)),
            ),
        )
        job_id = JobId(hex_of(keccak(terms)))
        self._pay_in(sender, amount)
        self._last_job[resource.resource_id] = job_id
        self._jobs[job_id] = Job(
            *(job_id, sender, resource.provider, resource.resource_id, resource.payment_token, JobStatus.CREATED),
            *(self.now, 0, 0, duration, 0, resource.min_seconds, 0, 0, price, amount),
        )
        values = (bytes32(job_id), sender, resource_id, image, price, duration, amount, spec)
        self._emit("Marketplace", "JobCreated", *values)
        self._emit("PaymentEscrow", "FundsLocked", bytes32(job_id), sender, resource.payment_token, amount)

    def _cancel_job(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.CREATED)
        self._only(sender, job, job.user)
        self._cancel(job, EndReason.RENTER_CANCELLED)

    def _accept(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.CREATED)
        self._only(sender, job, job.provider)
        self._before(job, job.since + self.market_windows.accept)
        self._move(job, JobStatus.ACCEPTED)
        self._emit("Marketplace", "JobAccepted", job_id, sender)

    def _start(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.ACCEPTED)
        self._only(sender, job, job.provider)
        self._before(job, job.since + self.market_windows.start)
        self._move(job, JobStatus.RUNNING, started_at=self.now)
        self._emit("Marketplace", "JobStarted", job_id, self.now)

    def _complete_job(self, sender: Address, job_id: bytes, result_cid: bytes) -> None:
        job = self._in(job_id, JobStatus.RUNNING)
        self._only(sender, job, job.provider)
        self._complete(job, EndReason.PROVIDER_COMPLETED, result_cid, self.market_windows.dispute == 0)

    def _stop(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.RUNNING)
        self._only(sender, job, job.user)
        self._complete(job, EndReason.RENTER_STOPPED, bytes(32), True)

    def _extend(self, sender: Address, job_id: bytes, extra: int) -> None:
        job = self._in(job_id, JobStatus.RUNNING)
        self._before(job, job.dead_at or job.started_at + job.duration)
        amount = settlement.lock_up(job.price_per_hour, extra)
        self._pay_in(sender, amount)
        changed = replace(job, duration=job.duration + extra, locked_amount=job.locked_amount + amount)
        self._jobs[job.job_id] = changed
        self._emit("Marketplace", "JobExtended", job_id, sender, changed.duration, amount)
        self._emit("PaymentEscrow", "FundsLocked", job_id, sender, job.payment_token, amount)

    def _end(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.RUNNING)
        if not job.dead_at:
            self._after(job, job.started_at + job.duration)
        self._complete(job, EndReason.TIME_OVER, bytes(32), self.market_windows.dispute == 0)

    def _expire(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.CREATED, JobStatus.ACCEPTED)
        accepted = job.status is JobStatus.ACCEPTED
        self._after(job, job.since + (self.market_windows.start if accepted else self.market_windows.accept))
        self._cancel(job, EndReason.NOT_STARTED if accepted else EndReason.NOT_ACCEPTED)
        if accepted:
            self._record(job.provider, JobOutcome.NOT_STARTED)

    def _settle(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.RUNNING, JobStatus.COMPLETED)
        if job.status is JobStatus.RUNNING:
            now, proven = self._clock(job), replace(job, min_seconds=0)
            billed = self._billable(proven, now)
            due = settlement.accrued(job.price_per_hour, billed, job.settled_seconds)
            if due == 0:
                raise _refusal("NothingToSettle(bytes32)", job_id)
            self._emit("Marketplace", "JobSettled", job_id, billed, due)
            self._jobs[job.job_id] = replace(job, settled_seconds=billed)
            self._pay_provider(job.job_id, due)
            return
        if job.job_id in self._paid:
            raise _refusal("NothingToSettle(bytes32)", job_id)
        self._after(job, job.since + self.market_windows.dispute)
        self._pay(job, self._billable(job, job.ended_at))

    def _dispute(self, sender: Address, job_id: bytes, reason: str) -> None:
        job = self._in(job_id, JobStatus.ACCEPTED, JobStatus.RUNNING, JobStatus.COMPLETED)
        if job.status is JobStatus.COMPLETED:
            if job.job_id in self._paid:
                raise _refusal("JobStatusInvalid(bytes32,uint8)", job_id, int(job.status))
            self._only(sender, job, job.user)
            self._before(job, job.since + self.market_windows.dispute)
        else:
            self._only(sender, job, job.user, job.provider)
        ended_at = job.ended_at if job.status is JobStatus.COMPLETED else self._clock(job)
        self._move(job, JobStatus.DISPUTED, ended_at=ended_at)
        contested = settlement.accrued(job.price_per_hour, self._billable(job, ended_at), job.settled_seconds)
        self._emit("Marketplace", "JobDisputed", job_id, sender, reason, contested)
        self._refund(job.job_id, job.locked_amount - contested)

    def _resolve_by_timeout(self, sender: Address, job_id: bytes) -> None:
        job = self._in(job_id, JobStatus.DISPUTED)
        self._after(job, job.since + self.market_windows.verdict)
        self._resolve(job, Verdict.SPLIT_PAYMENT, True)

    # what the entry points share

    def _cancel(self, job: Job, reason: EndReason) -> None:
        self._move(job, JobStatus.CANCELLED)
        self._emit("Marketplace", "JobCancelled", bytes32(job.job_id), int(reason))
        self._refund(job.job_id, job.locked_amount)

    def _complete(self, job: Job, reason: EndReason, result_cid: bytes, consented: bool) -> None:
        ended_at = self._clock(job)
        billed = self._billable(job, ended_at)
        total = settlement.cost(job.price_per_hour, max(billed, job.settled_seconds))
        self._move(job, JobStatus.COMPLETED, ended_at=ended_at)
        final = EndReason.PROVIDER_DEAD if job.dead_at else reason
        self._emit("Marketplace", "JobCompleted", bytes32(job.job_id), int(final), billed, total, result_cid)
        if consented:
            self._pay(self._jobs[job.job_id], billed)
        else:
            due = settlement.accrued(job.price_per_hour, billed, job.settled_seconds)
            self._refund(job.job_id, job.locked_amount - due)

    def _pay(self, job: Job, billed: int) -> None:
        due = settlement.accrued(job.price_per_hour, billed, job.settled_seconds)
        settled = max(billed, job.settled_seconds)
        self._paid.add(job.job_id)
        self._jobs[job.job_id] = replace(job, settled_seconds=settled)
        self._emit("Marketplace", "JobSettled", bytes32(job.job_id), settled, due)
        self._pay_provider(job.job_id, due)
        self._refund(job.job_id, self._jobs[job.job_id].locked_amount)
        self._record(job.provider, JobOutcome.PROVIDER_DIED if job.dead_at else JobOutcome.COMPLETED)

    def _resolve(self, job: Job, verdict: Verdict, by_timeout: bool) -> None:
        to_provider = settlement.accrued(job.price_per_hour, self._billable(job, job.ended_at), job.settled_seconds)
        outcome = JobOutcome.COMPLETED
        if verdict is Verdict.PROVIDER_FAULT:
            to_provider, outcome = 0, JobOutcome.DISPUTE_LOST
        elif verdict is Verdict.SPLIT_PAYMENT:
            to_provider, outcome = settlement.split(to_provider)[0], JobOutcome.DISPUTE_SPLIT
        self._move(job, JobStatus.RESOLVED)
        self._emit("Marketplace", "JobResolved", bytes32(job.job_id), int(verdict), by_timeout)
        self._pay_provider(job.job_id, to_provider)
        self._refund(job.job_id, self._jobs[job.job_id].locked_amount)
        self._record(job.provider, outcome)

    def _record(self, provider: Address, outcome: JobOutcome) -> None:
        before = self._scores.get(provider, Reputation(0, True, 0, 0, 0, 0, 0, 0))
        self._scores[provider] = replace(
            before,
            total_jobs=before.total_jobs + 1,
            successful_jobs=before.successful_jobs + (outcome is JobOutcome.COMPLETED),
            disputes=before.disputes + (outcome in (JobOutcome.DISPUTE_LOST, JobOutcome.DISPUTE_SPLIT)),
            last_updated=self.now,
        )
        self._emit("ReputationSystem", "JobRecorded", provider, int(outcome))

    def _pay_provider(self, job_id: JobId, amount: int) -> None:
        if amount == 0:
            return
        job, fee = self._jobs[job_id], settlement.fee(amount, self.market_fee_bps)
        self._jobs[job_id] = replace(job, locked_amount=job.locked_amount - amount)
        self._balances[job.provider] = self._balances.get(job.provider, 0) + amount - fee
        self._emit("PaymentEscrow", "FundsReleased", bytes32(job_id), job.provider, amount - fee, fee)

    def _refund(self, job_id: JobId, amount: int) -> None:
        if amount == 0:
            return
        job = self._jobs[job_id]
        self._jobs[job_id] = replace(job, locked_amount=job.locked_amount - amount)
        self._balances[job.user] = self._balances.get(job.user, 0) + amount
        self._emit("PaymentEscrow", "Refunded", bytes32(job_id), job.user, amount)

    def _pay_in(self, payer: Address, amount: int) -> None:
        drawn = min(self._balances.get(payer, 0), amount)
        self._take_from_wallet(payer, amount - drawn)
        self._balances[payer] = self._balances.get(payer, 0) - drawn

    def _take_from_wallet(self, account: Address, amount: int) -> None:
        held = self._wallets.get(account, self._wallet)
        if held < amount:
            raise _refusal("ERC20InsufficientBalance(address,uint256,uint256)", account, held, amount)
        self._wallets[account] = held - amount

    def _clock(self, job: Job) -> int:
        if not job.started_at:
            return 0
        stop = min(self.now, job.started_at + job.duration)
        return min(stop, job.dead_at) if job.dead_at else stop

    def _billable(self, job: Job, ended_at: int) -> int:
        least = 0 if job.dead_at else job.min_seconds
        return settlement.billable_seconds(job.started_at, ended_at, job.outage_seconds, least, job.duration)

    def _move(self, job: Job, status: JobStatus, **changes: Any) -> None:
        self._jobs[job.job_id] = replace(job, status=status, since=self.now, **changes)

    def _active(self, resource_id: ResourceId) -> JobId | None:
        job = self._jobs.get(self._last_job.get(resource_id, JobId(NO_ID)))
        busy = (JobStatus.CREATED, JobStatus.ACCEPTED, JobStatus.RUNNING)
        return job.job_id if job is not None and job.status in busy else None

    def _resource(self, resource_id: ResourceId) -> Resource:
        if resource_id not in self._resources:
            raise _refusal("ResourceMissing(bytes32)", bytes32(resource_id))
        return self._resources[resource_id]

    def _owned(self, sender: Address, resource_id: bytes) -> Resource:
        resource = self._resource(ResourceId(hex_of(resource_id)))
        if resource.provider != sender:
            raise _refusal("ResourceCallerUnauthorized(bytes32,address)", resource_id, sender)
        return resource

    def _in(self, job_id: bytes, *statuses: JobStatus) -> Job:
        job = self._jobs.get(JobId(hex_of(job_id)))
        if job is None or job.status not in statuses:
            actual = JobStatus.NONE if job is None else job.status
            raise _refusal("JobStatusInvalid(bytes32,uint8)", job_id, int(actual))
        return job

    def _only(self, sender: Address, job: Job, *parties: Address) -> None:
        if sender not in parties:
            raise _refusal("JobCallerUnauthorized(bytes32,address)", bytes32(job.job_id), sender)

    def _before(self, job: Job, deadline: int) -> None:
        if self.now >= deadline:
            raise _refusal("JobDeadlinePassed(bytes32,uint40)", bytes32(job.job_id), deadline)

    def _after(self, job: Job, deadline: int) -> None:
        if self.now < deadline:
            raise _refusal("JobDeadlineNotReached(bytes32,uint40)", bytes32(job.job_id), deadline)

    def _emit(self, contract: str, name: str, *values: Any) -> None:
        inputs = _event_inputs(contract, name)
        topics = ["0x" + keccak(f"{name}({','.join(item['type'] for item in inputs)})".encode()).hex()]
        plain: list[tuple[str, Any]] = []
        for item, value in zip(inputs, values, strict=True):
            if item["indexed"]:
                topics.append(hex_of(abi_encode([item["type"]], [value])))
            else:
                plain.append((item["type"], value))
        self._logs.append(
            {
                "address": self.deployment.addresses[contract].lower(),
                "topics": topics,
                "data": hex_of(abi_encode([kind for kind, _ in plain], [value for _, value in plain])),
                "blockNumber": hex(len(self.blocks)),
                "blockHash": self._next_hash(),
                "transactionHash": NO_ID,
                "logIndex": hex(sum(int(log["blockNumber"], 16) == len(self.blocks) for log in self._logs)),
                "removed": False,
            }
        )

    def _next_hash(self) -> str:
        return hex_of(keccak(f"{self.blocks[-1].hash}{len(self.blocks)}".encode()))

    def _mine(self) -> Block:
        block = Block(len(self.blocks), self._next_hash(), self.blocks[-1].hash, self.now)
        self.blocks.append(block)
        return block

    def _speak(self) -> None:
        if self.silent:
            raise MarketError("chain_unreachable", "the fake node is silent")


class FakeSender:
    """Sends to a FakeChain, once per key, as one account."""

    def __init__(self, chain: FakeChain, signer: Signer) -> None:
        self.chain = chain
        self.signer = signer
        self.address = signer.address
        self.sent: dict[str, tuple[Call, Receipt]] = {}

    async def send(self, key: str, call: Call) -> str:
        if key not in self.sent:
            self.sent[key] = (call, self.chain.apply(self.address, call))
        return self.sent[key][1].tx_hash

    async def confirm(self, key: str, timeout_s: float = 60.0) -> Receipt:
        if key not in self.sent:
            raise MarketError("not_found", f"nothing was sent under {key}")
        return self.sent[key][1]

    async def execute(self, key: str, call: Call, timeout_s: float = 60.0) -> Receipt:
        await self.send(key, call)
        return await self.confirm(key, timeout_s)

    async def resume(self) -> None:
        """Nothing is ever unfinished here."""


def _refusal(signature: str, *values: Any) -> MarketError:
    return decode_revert(encode_call(signature, *values))


@cache
def _event_inputs(contract: str, name: str) -> list[dict[str, Any]]:
    abi = json.loads((files("gpumarket.chain") / "abi" / f"{contract}.json").read_text())
    inputs: list[dict[str, Any]] = next(e["inputs"] for e in abi if e["type"] == "event" and e["name"] == name)
    return inputs


class FakeCommitteeChain:
    """The chain as an oracle member uses it: reads, and a report's transactions with the contract's own checks.

    Checked against a real node and the real contracts by tests/integration/oracle/test_fake_chain.py.
    """

    def __init__(self, deployment: Deployment, members: Sequence[Member], threshold: int, now: int) -> None:
        self.deployment = deployment
        self.members, self.threshold, self.now = tuple(members), threshold, now
        self.config_digest = hashlib.sha256(b"committee").digest()
        self.jobs: dict[str, Job] = {}
        self.raw: list[dict[str, Any]] = []
        self.reports: dict[int, Report] = {}
        self.applied: dict[tuple[int, int], Outcome] = {}
        self.refuse: str = ""

    def open_job(self, job: Job, image: Cid) -> None:
        """A job appears, with its event."""
        self.jobs[job.job_id] = job
        topic = next(t for t, spec in events.EVENTS.items() if spec.name == "JobCreated")
        words = [image.digest, *(n.to_bytes(32, "big") for n in (job.price_per_hour, job.duration, 0, 160, 0))]
        self.raw.append(
            {
                "address": self.deployment.addresses["Marketplace"],
                "topics": [topic, job.job_id, "0x" + "0" * 24 + job.user[2:].lower(), job.resource_id],
                "data": "0x" + b"".join(words).hex(),
                "blockNumber": hex(len(self.raw) + 1),
                "blockHash": "0x" + "ab" * 32,
                "transactionHash": "0x" + "cd" * 32,
                "logIndex": "0x0",
            }
        )

    async def block(self, which: int | str) -> Block:
        return Block(len(self.raw) + 1, "0x" + "ab" * 32, "0x" + "aa" * 32, self.now)

    async def logs(self, from_block: int, to_block: int) -> list[dict[str, Any]]:
        return [log for log in self.raw if from_block <= int(log["blockNumber"], 16) <= to_block]

    async def job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise MarketError("not_found", f"there is no job {job_id}")
        return self.jobs[job_id]

    async def provider_resources(self, provider: Address) -> list[ResourceId]:
        return [job.resource_id for job in self.jobs.values() if job.provider == provider]

    async def committee(self) -> Committee:
        return Committee(self.members, self.threshold, self.config_digest, max(self.reports, default=0))

    async def outcomes_root(self, seq: int) -> bytes:
        return self.reports[seq].outcomes_root if seq in self.reports else bytes(32)

    async def is_applied(self, seq: int, index: int) -> bool:
        return (seq, index) in self.applied

    async def execute(self, key: str, call: Call, timeout_s: float = 60.0) -> Receipt:
        """The sender's part: a report or an outcome takes effect, or the contract's refusal is raised."""
        if self.refuse:
            raise MarketError(self.refuse, "refused by the test")
        if call.label == "submitValidationReport":
            self._submit(*decode((calls.REPORT, "uint256", "bytes"), call.data[4:]))
        elif call.label != "endJob":
            self._apply(*decode(("uint64", "uint32", calls.OUTCOME, "bytes32[]"), call.data[4:]))
        return Receipt("0x" + "ee" * 32, 1, "0x" + "ab" * 32, 1, 1, True, (), self.members[0].signer, call.to)

    def _submit(self, values: tuple[Any, ...], mask: int, signatures: bytes) -> None:
        report = Report(*values)
        signers = [i for i in range(len(self.members)) if mask >> i & 1]
        if report.seq <= max(self.reports, default=0):
            raise MarketError("deadline_passed", "ReportSequenceStale")
        if len(signatures) != 64 * len(signers) or len(signers) < self.threshold:
            raise MarketError("unauthorized", "ReportSignaturesTooFew")
        statement = typed_data.report(self.deployment, report)
        for place, index in enumerate(signers):
            signature = signatures[64 * place : 64 * place + 64]
            if typed_data.recover(statement, signature) != self.members[index].signer:
                raise MarketError("unauthorized", "ReportSignatureInvalid")
        self.reports[report.seq] = report

    def _apply(self, seq: int, index: int, values: tuple[Any, ...], proof: list[bytes]) -> None:
        kind, job_id, provider, *rest = values
        outcome = Outcome(OutcomeKind(kind), "0x" + job_id.hex(), checksum(provider), *rest)
        if seq not in self.reports:
            raise MarketError("not_found", "ReportMissing")
        if not merkle.verify(self.reports[seq].outcomes_root, index, outcome, proof):
            raise MarketError("proof_invalid", "OutcomeProofInvalid")
        if (seq, index) in self.applied:
            raise MarketError("deadline_passed", "OutcomeAlreadyApplied")
        self.applied[seq, index] = outcome


class FakeIndexer:
    """Answers the SDK's GraphQL queries about jobs from a FakeChain. `result_cid` is told instead of the truth if set.

    Checked against the real indexer by tests/integration/chain/test_fake_chain.py.
    """

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        self.down = False
        self.result_cid: str | None = None

    async def query(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        if self.down:
            raise MarketError("gateway_unreachable", "the fake gateway is down")
        logs = await self.chain.logs(0, len(self.chain.blocks))
        found = [event for log in logs if (event := events.decode(log, self.chain.deployment.addresses)) is not None]
        jobs = {event.job_id: event for event in found if isinstance(event, events.JobCreated)}
        if "job(" not in document:
            return {"jobs": [self._row(job_id, found) for job_id in jobs]}
        job_id = variables["id"]
        return {"job": self._row(job_id, found) if job_id in jobs else None}

    def _row(self, job_id: str, found: Sequence[Any]) -> dict[str, Any]:
        mine = [event for event in found if getattr(event, "job_id", None) == job_id]
        transactions = [
            {"hash": event.tx_hash, "block": event.block_number, "event": type(event).__name__} for event in mine
        ]
        return {"id": job_id, "resultCID": self.result_cid, "transactions": transactions}


class ScriptedStream:
    """WebSocket connections that follow a script: frames (JSON objects or text) or an exception, one list each."""

    def __init__(self, connections: Sequence[Sequence[Any]]) -> None:
        self._connections = list(connections)
        self.greetings: list[int] = []
        self.pauses: list[float] = []

    def greeting(self, after: int) -> dict[str, Any]:
        return {"after": after}

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[_ScriptedSocket]:
        yield _ScriptedSocket(iter(self._connections.pop(0)), self.greetings)


@dataclass
class _ScriptedSocket:
    script: Iterator[Any]
    greetings: list[int]

    async def send(self, text: str) -> None:
        self.greetings.append(json.loads(text)["after"])

    async def receive(self) -> str:
        item = next(self.script)
        if isinstance(item, Exception):
            raise item
        return item if isinstance(item, str) else json.dumps(item)
