"""A renter's view of the market: everything the command line does, as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import httpx

from gpumarket.chain import calls, events, typed_data
from gpumarket.chain.calls import Call
from gpumarket.chain.types import Job, JobRequest, Receipt
from gpumarket.errors import MarketError
from gpumarket.images.push import PushedImage, push
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.fetch import fetch
from gpumarket.ipfs.reader import export_path
from gpumarket.ipfs.store import BlockStore
from gpumarket.rules import settlement, units
from gpumarket.rules.job_spec import JobSpec, encode
from gpumarket.rules.job_state import TERMINAL, JobStatus
from gpumarket.rules.units import Address
from gpumarket.sdk.account import Account
from gpumarket.sdk.graphql import Queries
from gpumarket.sdk.jobs import (
    MINE,
    ONE,
    JobSummary,
    JobView,
    Pulled,
    Rental,
    Wallet,
    accrual,
    decoded,
    no_results,
    result_root,
)
from gpumarket.sdk.offers import Filters, Listing, find
from gpumarket.sdk.plan import Funds, Plan, check_spec, image_cid, make_plan, with_source
from gpumarket.sdk.ports import Chain
from gpumarket.sdk.settings import RenterSettings
from gpumarket.sdk.streams import Frame, follow
from gpumarket.sdk.websocket import dial

MAX_RESULT_BYTES = 64 << 30
_POLL_S = 1.0
_GRANT_S = 300
_PERMIT_S = 3600
_INDEXER_WAIT_S = 30.0
_HTTP_TIMEOUT_S = 30.0

Bytes = Callable[[int, int | None], None]
"""Progress: bytes done, bytes in all where that is known."""


class MarketClient:
    """A renter's view of the market. Build it with `gpumarket.client.connect`, or from its parts.

    Args:
        account: the renter's key; None allows everything that only reads.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        settings: RenterSettings,
        chain: Chain,
        queries: Queries,
        store: BlockStore,
        http: httpx.AsyncClient,
        account: Account | None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.chain = chain
        self._queries = queries
        self._store = store
        self._http = http
        self._account = account
        self._clock = clock
        self._sleep = sleep

    @property
    def account(self) -> Account:
        """Raises MarketError `unauthorized` when no key was given."""
        if self._account is None:
            raise MarketError(
                "unauthorized",
                "this needs your account",
                hint="name a keystore file with --keystore, or make one with `gpumarket wallet create`",
            )
        return self._account

    # ---------------------------------------------------------------- content

    async def push(self, source: str, progress: Bytes | None = None) -> PushedImage:
        """Put an image (Docker Engine reference, OCI folder or tar) into the content store and pin it.

        Raises:
            MarketError: `not_found`, `docker_unreachable`, `image_unreadable`, `disk_full`.
        """

        def work() -> PushedImage:
            pushed = push(source, self._store, progress)
            self._store.pin(pushed.root, source)
            return pushed

        return await asyncio.to_thread(work)

    async def pull(self, job_id: str, dest: Path, progress: Bytes | None = None) -> Pulled:
        """Fetch a job's results from its provider into `dest`, every block checked against the CID on chain.

        Raises:
            MarketError: `not_found` (no job, no results), `source_unreachable`, `image_block_missing`,
                `image_block_corrupt`.
        """
        root = await self.result_cid(job_id)
        job = await self.chain.job(job_id)
        endpoint = await self.chain.endpoint_of(job.provider)
        fetched = await fetch(
            root,
            self._store,
            [endpoint],
            max_bytes=MAX_RESULT_BYTES,
            http=self._http,
            progress=progress,
            timeout=_HTTP_TIMEOUT_S,
        )
        await asyncio.to_thread(export_path, self._store, root, dest)
        files = await asyncio.to_thread(lambda: sum(1 for path in dest.rglob("*") if path.is_file()))
        return Pulled(root, str(dest), files, fetched.bytes_new)

    async def result_cid(self, job_id: str) -> Cid:
        """The root of a job's results as the chain has it; the indexer only says where on the chain to look.

        Raises:
            MarketError: `not_found` when the job has no results (yet).
        """
        ends = self._clock() + _INDEXER_WAIT_S
        while True:
            job, row = await asyncio.gather(self.chain.job(job_id), self._indexed(job_id))
            for transaction in (row or {}).get("transactions") or []:
                if transaction["event"] != "JobCompleted":
                    continue
                receipt = await self.chain.receipt(transaction["hash"])
                for event in decoded(receipt, self.chain.deployment):
                    if isinstance(event, events.JobCompleted) and event.job_id == job_id:
                        return result_root(job_id, event.result_cid)
            if job.status is not JobStatus.COMPLETED or self._clock() >= ends:
                raise no_results(job_id)
            await self._sleep(_POLL_S)  # the chain is ahead of the indexer

    # ----------------------------------------------------------------- renting

    async def list_resources(self, filters: Filters | None = None) -> Listing:
        """Machines that fit, cheapest first. Raises MarketError `gateway_unreachable`."""
        return await find(self._queries, filters or Filters())

    async def plan(
        self,
        resource_id: str,
        image: str,
        duration: int,
        spec: JobSpec | None = None,
        *,
        max_price_per_hour: int | None = None,
    ) -> Plan:
        """The whole price and the rules, before any money moves. The image is also offered from `settings.store_url`.

        Raises:
            MarketError: everything the contract would refuse; see `gpumarket.sdk.plan.make_plan`.
        """
        wanted = with_source(spec or JobSpec(), self.settings.store_url)
        check_spec(wanted)
        resource, busy, fee_bps, windows, gas_price, funds = await asyncio.gather(
            self.chain.resource(resource_id),
            self.chain.active_job_of(resource_id),
            self.chain.fee_bps(),
            self.chain.windows(),
            self.chain.gas_price(),
            self._funds(),
        )
        return make_plan(
            key=f"rent:{uuid.uuid4()}",
            resource=resource,
            busy_job=busy,
            image=str(image_cid(image)),
            duration=duration,
            spec=wanted,
            token=self.chain.deployment.payment_token,
            fee_bps=fee_bps,
            windows=windows,
            funds=funds,
            gas_price=gas_price,
            max_price_per_hour=max_price_per_hour,
        )

    async def rent(self, plan: Plan) -> Rental:
        """Open the job in one transaction, permit included. The same plan is paid at most once.

        Raises:
            MarketError: `resource_busy`, `price_too_high`, `insufficient_balance`, `transaction_not_mined`, ...
        """
        deployment = self.chain.deployment
        request = JobRequest(
            resource_id=plan.resource_id,
            image_cid=image_cid(plan.image).digest,
            duration=plan.duration,
            max_price_per_hour=plan.price_per_hour,
            payment_token=plan.token.address,
            spec=encode(plan.spec),
        )
        call = calls.create_job(deployment, request)
        if plan.permit:
            deadline = int(self._clock()) + _PERMIT_S
            signature = await self._permit(plan.from_wallet, deadline)
            call = calls.create_job_with_permit(deployment, request, plan.from_wallet, deadline, signature)
        receipt = await self.account.sender.execute(plan.key, call)
        created = next((e for e in decoded(receipt, deployment) if isinstance(e, events.JobCreated)), None)
        if created is None:
            raise MarketError("internal", "the transaction opened no job", tx_hash=receipt.tx_hash)
        return Rental(created.job_id, receipt.tx_hash, receipt.block_number, receipt.gas_used, created.max_cost)

    async def status(self, job_id: str) -> JobView:
        """A job now. The chain decides; the indexer's row is added if it answers. Raises MarketError `not_found`."""
        job, deadline = await asyncio.gather(self.chain.job(job_id), self.chain.next_deadline(job_id))
        indexed: dict[str, Any] | None = None
        with contextlib.suppress(MarketError):
            indexed = await self._indexed(job_id)
        return JobView(job, *accrual(job, int(self._clock())), deadline, indexed)

    async def my_jobs(self, user: Address | None = None) -> tuple[JobSummary, ...]:
        """All jobs of `user` (default: this account), newest first as the indexer has them."""
        data = await self._queries.query(MINE, {"user": user or self.account.address})
        return tuple(JobSummary(row) for row in data["jobs"])

    async def wait_for(
        self,
        job_id: str,
        statuses: Collection[JobStatus],
        timeout_s: float,
        on_change: Callable[[Job], None] | None = None,
    ) -> Job:
        """Poll the chain until the job has one of `statuses`.

        Raises:
            MarketError: `deadline_passed` after `timeout_s`; `job_status_invalid` when the job ended in another status.
        """
        ends = self._clock() + timeout_s
        seen: JobStatus | None = None
        while True:
            job = await self.chain.job(job_id)
            if job.status is not seen:
                seen = job.status
                if on_change is not None:
                    on_change(job)
            if job.status in statuses:
                return job
            if job.status in TERMINAL:
                raise MarketError("job_status_invalid", f"the job ended as {job.status.name}", job_id=job_id)
            if self._clock() >= ends:
                raise MarketError(
                    "deadline_passed", f"the job is still {job.status.name} after {timeout_s:.0f} s", job_id=job_id
                )
            await self._sleep(_POLL_S)

    def logs(self, job_id: str, stream: str = "logs", after: int = 0) -> AsyncIterator[Frame]:
        """Live frames of a job (`logs` or `metrics`) through the gateway, until its end; survives lost connections.

        Raises:
            MarketError: `unauthorized` if the job is not yours, `gateway_unreachable`, `provider_unreachable`.
        """
        url = f"{self.settings.gateway_url.rstrip('/')}/api/v1/instances/{job_id}/{stream}"
        return follow(dial(url), lambda seen: self._greeting(job_id, stream, seen), self._sleep, after=after)

    async def stop(self, job_id: str) -> Receipt:
        """End a running job: the seconds used are paid, the rest comes back."""
        return await self.account.sender.execute(f"stop:{job_id}", calls.stop_job(self.chain.deployment, job_id))

    async def cancel(self, job_id: str) -> Receipt:
        """Take back a job that nobody accepted: everything comes back."""
        return await self.account.sender.execute(f"cancel:{job_id}", calls.cancel_job(self.chain.deployment, job_id))

    async def dispute(self, job_id: str, reason: str) -> Receipt:
        """Object to a job that is accepted, runs, or has just ended: the clock stops and the committee decides.

        Raises:
            MarketError: `job_status_invalid`, `deadline_passed` (the dispute window is over), `forbidden`.
        """
        call = calls.dispute_job(self.chain.deployment, job_id, reason)
        return await self.account.sender.execute(f"dispute:{job_id}", call)

    async def claim(self, job_id: str) -> Receipt:
        """Execute the deadline that is due, as anyone may: money back from a silent provider, or the last payment.

        Raises:
            MarketError: `job_status_invalid` (nothing will ever be due), `deadline_not_reached`.
        """
        deadline = await self.chain.next_deadline(job_id)
        due = next((call for call in self._deadline_calls(job_id) if call.data[:4] == deadline.selector), None)
        if due is None:
            raise MarketError("job_status_invalid", "this job has no deadline left; everything is settled")
        if self._clock() < deadline.timestamp:
            wait = deadline.timestamp - int(self._clock())
            raise MarketError("deadline_not_reached", f"{due.label} is possible in {wait} s", at=deadline.timestamp)
        return await self.account.sender.execute(f"{due.label}:{job_id}", due)

    async def extend(self, job_id: str, extra_seconds: int) -> Receipt:
        """Buy more time at the locked price, from the escrow balance first; approves the rest where needed.

        Raises:
            MarketError: `insufficient_balance`, `job_status_invalid`, `deadline_passed`.
        """
        job, escrowed = await asyncio.gather(self.chain.job(job_id), self.chain.escrow_balance(self.account.address))
        amount = settlement.lock_up(job.price_per_hour, extra_seconds)
        if job.status is not JobStatus.RUNNING:
            raise MarketError(
                "job_status_invalid", f"only a running job can be extended; this one is {job.status.name}"
            )
        name = str(uuid.uuid4())
        await self._allow(name, amount - escrowed)
        call = calls.extend_job(self.chain.deployment, job_id, extra_seconds)
        return await self.account.sender.execute(f"extend:{job_id}:{name}", call)

    # ------------------------------------------------------------------ wallet

    async def wallet(self) -> Wallet:
        funds = await self._funds()
        token = self.chain.deployment.payment_token
        return Wallet(
            self.account.address,
            token.symbol,
            token.decimals,
            funds.wallet,
            funds.escrow,
            funds.allowance,
            funds.native,
        )

    async def withdraw(self, amount: int, to: Address | None = None) -> Receipt:
        """Take `amount` out of the escrow's balance to `to` (default: this account)."""
        call = calls.withdraw(self.chain.deployment, amount, to or self.account.address)
        return await self.account.sender.execute(f"withdraw:{uuid.uuid4()}", call)

    async def deposit(self, amount: int) -> tuple[Receipt, ...]:
        """Put `amount` into the escrow's balance, so that rentals need no transfer; approves first where needed."""
        name = str(uuid.uuid4())
        approved = await self._allow(name, amount)
        deposit = calls.deposit(self.chain.deployment, amount)
        return (*approved, await self.account.sender.execute(f"deposit:{name}", deposit))

    # ----------------------------------------------------------------- private

    async def _funds(self) -> Funds:
        owner = self.account.address
        return Funds(
            *await asyncio.gather(
                self.chain.token_balance(owner),
                self.chain.escrow_balance(owner),
                self.chain.allowance(owner),
                self.chain.native_balance(owner),
            )
        )

    async def _allow(self, name: str, amount: int) -> tuple[Receipt, ...]:
        """Let the escrow take `amount` from the wallet, in a transaction of its own unless it may already.

        Raises:
            MarketError: `insufficient_balance`; then nothing was sent.
        """
        held = await self.chain.token_balance(self.account.address)
        if amount > held:
            token = self.chain.deployment.payment_token
            needed, has = (units.format_amount(value, token.decimals) for value in (amount, held))
            raise MarketError("insufficient_balance", f"needs {needed} {token.symbol} in the wallet, which has {has}")
        if amount <= await self.chain.allowance(self.account.address):
            return ()
        deployment = self.chain.deployment
        approve = calls.approve(deployment, deployment.addresses["PaymentEscrow"], amount)
        return (await self.account.sender.execute(f"approve:{name}", approve),)

    def _deadline_calls(self, job_id: str) -> tuple[Call, ...]:
        builders = (calls.expire_job, calls.end_job, calls.settle_job, calls.resolve_by_timeout)
        return tuple(build(self.chain.deployment, job_id) for build in builders)

    async def _permit(self, value: int, deadline: int) -> bytes:
        owner = self.account.address
        deployment = self.chain.deployment
        nonce, name = await asyncio.gather(self.chain.permit_nonce(owner), self.chain.token_name())
        escrow = deployment.addresses["PaymentEscrow"]
        permit = typed_data.permit(deployment, owner, escrow, value, nonce, deadline, token_name=name)
        return self.account.signer.sign_typed(permit)

    def _greeting(self, job_id: str, scope: str, after: int) -> dict[str, Any]:
        account = self.account
        expires_at = int(self._clock()) + _GRANT_S
        grant = typed_data.access_grant(self.chain.deployment, job_id, account.address, scope, expires_at)
        return {
            "type": "auth",
            "grant": {"jobId": job_id, "account": account.address, "scope": scope, "expiresAt": expires_at},
            "signature": "0x" + account.signer.sign_typed(grant).hex(),
            "after": after,
        }

    async def _indexed(self, job_id: str) -> dict[str, Any] | None:
        row: dict[str, Any] | None = (await self._queries.query(ONE, {"id": job_id})).get("job")
        return row
