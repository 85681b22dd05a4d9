"""`gpumarket rent`: from a plan to a paid job."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from gpumarket.cli import show
from gpumarket.cli.market import market_of
from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, State, YesOption, run, state_of
from gpumarket.client import MarketClient, Plan, Rental
from gpumarket.errors import MarketError
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import format_amount

app = typer.Typer()


@app.command()
def rent(
    context: typer.Context,
    resource: Annotated[str, typer.Argument(help="The machine's resource id, from `gpumarket list`.")],
    image: Annotated[str, typer.Option(help="The image's root CID, from `gpumarket push`.")],
    duration: Annotated[
        str, typer.Option("--duration", "--for", help="Time to pay for: 90s, 2h, 1h30m. Unused time comes back.")
    ],
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value for the container. Public: it goes on chain.")
    ] = None,
    command: Annotated[str | None, typer.Option(help="Replaces the image's command.")] = None,
    entrypoint: Annotated[str | None, typer.Option(help="Replaces the image's entrypoint.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Address of a content store that has the image.")] = None,
    max_price: Annotated[str | None, typer.Option(help="Refuse above this price per hour, e.g. 1.5.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the container runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and send nothing.")] = False,
    yes: YesOption = False,
    output: OutputOption = None,
) -> None:
    """Rent a machine. Shows the whole price and the rules first; then one transaction locks the money in escrow."""
    state = state_of(context, output)
    seconds = show.duration(duration)
    spec = JobSpec(
        command=tuple(shlex.split(command or "")),
        entrypoint=None if entrypoint is None else tuple(shlex.split(entrypoint)),
        env=dict(_variable(text) for text in env or []),
        sources=tuple(source or ()),
    )

    async def work() -> None:
        async with market_of(state) as market:
            decimals = market.chain.deployment.payment_token.decimals
            ceiling = None if max_price is None else show.amount(max_price, decimals)
            plan = await market.plan(show.resource_id(resource), image, seconds, spec, max_price_per_hour=ceiling)
            if dry_run:
                show_plan(state, plan, to_stderr=False)
                return
            show_plan(state, plan, to_stderr=True)
            state.confirm(f"lock {plan.amount(plan.locked)} for this rental?", yes)
            rental = await market.rent(plan)
            _show_rental(state, plan, rental)
            if wait:
                await _wait_running(state, market, rental)

    run(work())


def show_plan(state: State, plan: Plan, *, to_stderr: bool) -> None:
    """Everything a renter should know before paying."""
    row = plan.as_row()
    amounts = show.money(plan.token.symbol, plan.token.decimals)
    if not to_stderr:
        columns = [
            Column("machine", "machine"),
            Column("price per hour", "price_per_hour", amounts),
            Column("time", "duration", show.seconds),
            Column("locked, at most paid", "locked", amounts),
            Column("at least, once started", "minimum", amounts),
            Column("from escrow balance", "from_escrow", amounts),
            Column("from wallet", "from_wallet", amounts),
            Column("wallet holds", "wallet", amounts),
            Column("gas, about", "gas_wei_about", show.money("native coin", 18)),
            Column("permit in the same transaction", "permit", show.yes_no),
        ]
        state.printer.record(row, columns)
    note = state.printer.note
    if to_stderr:
        note(f"machine    {plan.machine}")
        note(f"price      {plan.amount(plan.price_per_hour)} per hour, for {show.seconds(plan.duration)}")
        note(f"locked     {plan.amount(plan.locked)} in escrow: the most this rental can cost")
        note(f"gas        about {format_amount(plan.gas, 18)} native coin for this transaction")
        note(f"from       {plan.amount(plan.from_wallet)} of {plan.amount(plan.funds.wallet)} in the wallet,")
        note(f"           {plan.amount(plan.from_escrow)} of {plan.amount(plan.funds.escrow)} in the escrow balance")
        note(f"allowance  {'signed into the same transaction (permit)' if plan.permit else 'enough'}")
    share = f"{plan.fee_bps / 100:g} % of what is earned, at most {plan.amount(plan.fee_at_most)}"
    note(f"fee        {share}: the provider pays it")
    for rule in plan.refund_rules:
        note(f"refund     {rule}")


def _show_rental(state: State, plan: Plan, rental: Rental) -> None:
    amounts = show.money(plan.token.symbol, plan.token.decimals)
    columns = (
        Column("job", "job_id"),
        Column("transaction", "tx_hash"),
        Column("gas used", "gas_used"),
        Column("locked in escrow", "locked", amounts),
    )
    state.printer.record(rental.as_row(), columns)
    state.printer.note(f"watch it: gpumarket logs {rental.job_id}")


async def _wait_running(state: State, market: MarketClient, rental: Rental) -> None:
    windows = await market.chain.windows()
    await market.wait_for(
        rental.job_id,
        {JobStatus.RUNNING, JobStatus.COMPLETED},
        windows.accept + windows.start + 60,
        lambda job: state.printer.note(f"job is {job.status.name}"),
    )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise MarketError("invalid_argument", f"--env {text!r} is not NAME=value")
    return name, value
