"""`gpumarket list`: needs no key and no node, only the gateway."""

from __future__ import annotations

from typing import Annotated

import httpx
import typer

from gpumarket.chain import deployments
from gpumarket.cli import show
from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, run, state_of
from gpumarket.sdk.graphql import GraphQL
from gpumarket.sdk.offers import Filters, Listing, find

app = typer.Typer()


@app.command("list")
def list_machines(
    context: typer.Context,
    gpu: Annotated[str | None, typer.Option(help="Text in the GPU's name, e.g. H100.")] = None,
    min_gpus: Annotated[int | None, typer.Option(help="Number of GPUs, at least.")] = None,
    min_memory: Annotated[int | None, typer.Option(help="Memory in GB, at least.")] = None,
    min_vcpu: Annotated[int | None, typer.Option(help="vCPUs, at least.")] = None,
    max_price: Annotated[str | None, typer.Option(help="Price per hour, at most, e.g. 1.5.")] = None,
    min_reputation: Annotated[
        int | None, typer.Option(help="Reputation 0..1000, at least; leaves new providers out.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Address of one provider.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also machines that cannot be rented right now.")] = False,
    output: OutputOption = None,
) -> None:
    """Find machines to rent, cheapest first."""
    state = state_of(context, output)
    settings = state.settings()
    token = deployments.load(settings.deployments).payment_token
    filters = Filters(
        gpu_model=gpu,
        min_gpu_count=min_gpus,
        min_memory_gb=min_memory,
        min_vcpu=min_vcpu,
        max_price_per_hour=None if max_price is None else show.amount(max_price, token.decimals),
        min_reputation=min_reputation,
        provider=provider,
        all=everything,
    )

    async def work() -> Listing:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            return await find(GraphQL(settings.gateway_url, http), filters)

    listing = run(work())
    columns = (
        Column("resource", "resource_id"),
        Column("GPU", "gpu_model"),
        Column("n", "gpu_count", right=True),
        Column("vCPU", "vcpu", right=True),
        Column("GB", "memory_gb", right=True),
        Column("per hour", "price_per_hour", show.money(token.symbol, token.decimals), right=True),
        Column("longest", "max_seconds", show.seconds, right=True),
        Column("reputation", "reputation", right=True),
        Column("free", "rentable", show.yes_no),
    )
    rows = [offer.as_row() for offer in listing.offers]
    state.printer.rows(rows, columns, empty="no machine fits")
    if listing.excluded:
        reasons = ", ".join(f"{count} for {name}" for name, count in sorted(listing.excluded.items()))
        state.printer.note(f"left out: {reasons}")
