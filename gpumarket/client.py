"""The renter's SDK: push an image, find a machine, see the price, rent, watch, fetch the results.

    async with connect(settings) as market:
        pushed = await market.push("my-image:latest")
        listing = await market.list_resources(Filters(min_gpu_count=1))
        plan = await market.plan(listing.offers[0].resource_id, str(pushed.root), duration=3600)
        rental = await market.rent(plan)
        async for frame in market.logs(rental.job_id): ...
        await market.pull(rental.job_id, Path("results"))

The command line is a thin shell over this. Money is in base units, time in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from gpumarket.chain import deployments
from gpumarket.chain.client import ChainClient
from gpumarket.chain.sender import Sender, load_account
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.sdk.account import Account
from gpumarket.sdk.graphql import GraphQL
from gpumarket.sdk.jobs import JobSummary, JobView, Pulled, Rental, Wallet
from gpumarket.sdk.market import MarketClient
from gpumarket.sdk.offers import Filters, Listing, Offer
from gpumarket.sdk.plan import Plan
from gpumarket.sdk.settings import RenterSettings
from gpumarket.sdk.streams import Frame

__all__ = [
    "Account",
    "Filters",
    "Frame",
    "JobSummary",
    "JobView",
    "Listing",
    "MarketClient",
    "Offer",
    "Plan",
    "Pulled",
    "Rental",
    "RenterSettings",
    "Wallet",
    "connect",
]

_HTTP_TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def connect(
    settings: RenterSettings, *, with_account: bool = True, passphrase: str | None = None
) -> AsyncIterator[MarketClient]:
    """Open the market: node, gateway, content store and, unless `with_account` is false, the renter's key.

    Args:
        passphrase: of the keystore; by default what `GPUMARKET_PASSPHRASE` or `GPUMARKET_PASSPHRASE_FILE` says.

    Raises:
        MarketError: `chain_unreachable`, `chain_mismatch`, `invalid_config`, `unauthorized`, `development_key_refused`.
    """
    deployment = deployments.load(settings.deployments)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False))
        chain = await ChainClient.connect(settings.rpc_url, deployment)
        stack.push_async_callback(chain.close)
        account: Account | None = None
        if with_account:
            given = None if passphrase is None else {"GPUMARKET_PASSPHRASE": passphrase}
            signer = await asyncio.to_thread(load_account, settings.keystore, given)
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            sender = Sender(chain, signer, settings.journal_path)
            stack.push_async_callback(sender.close)
            await sender.resume()
            account = Account(signer, sender)
        yield MarketClient(
            settings=settings,
            chain=chain,
            queries=GraphQL(settings.gateway_url, http),
            store=EmbeddedStore(settings.store),
            http=http,
            account=account,
        )
