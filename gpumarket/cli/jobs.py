"""What a renter does with a job: status, logs, stop, cancel, extend, pull."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gpumarket.chain.types import Receipt
from gpumarket.cli import show
from gpumarket.cli.market import market_of
from gpumarket.cli.output import Column, OutputFormat
from gpumarket.cli.push import progress_to_stderr
from gpumarket.cli.state import OutputOption, State, YesOption, run, state_of
from gpumarket.client import Frame, MarketClient
from gpumarket.errors import MarketError

app = typer.Typer()

JobArgument = Annotated[str, typer.Argument(help="The job's id.")]


@app.command()
def status(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="The job's id; without it, all your jobs.")] = None,
    output: OutputOption = None,
) -> None:
    """Show a job: what the chain says, what it costs so far, what comes back. Without an id: all your jobs."""
    state = state_of(context, output)

    async def one(job_id: str) -> None:
        async with market_of(state, with_account=False) as market:
            token = market.chain.deployment.payment_token
            amounts = show.money(token.symbol, token.decimals)
            view = await market.status(job_id)
            columns = (
                Column("job", "job_id"),
                Column("status", "status"),
                Column("on chain", "chain_status"),
                Column("why it ended", "end_reason"),
                Column("provider", "provider"),
                Column("image", "image"),
                Column("results", "result"),
                Column("started", "started_at", show.when),
                Column("ended", "ended_at", show.when),
                Column("paid for", "duration", show.seconds),
                Column("price per hour", "price_per_hour", amounts),
                Column("locked", "locked", amounts),
                Column("accrued", "accrued", amounts),
                Column("refundable", "refundable", amounts),
                Column("total cost", "total_cost", amounts),
                Column("refunded", "refunded", amounts),
                Column("next deadline", "next_deadline", show.when),
            )
            state.printer.record(view.as_row(), columns)

    async def mine() -> None:
        async with market_of(state) as market:
            token = market.chain.deployment.payment_token
            columns = (
                Column("job", "job_id"),
                Column("status", "status"),
                Column("on chain", "chain_status"),
                Column("paid for", "duration", show.seconds, right=True),
                Column("cost", "total_cost", show.money(token.symbol, token.decimals), right=True),
            )
            rows = [summary.as_row() for summary in await market.my_jobs()]
            state.printer.rows(rows, columns, empty="you have no jobs")

    run(mine() if job is None else one(show.job_id(job)))


@app.command()
def logs(
    context: typer.Context,
    job: JobArgument,
    after: Annotated[int, typer.Option(help="Only lines after this number.")] = 0,
    metrics: Annotated[bool, typer.Option("--metrics", help="The job's metrics instead of its output.")] = False,
    output: OutputOption = None,
) -> None:
    """Follow a job's output through the gateway until the job ends. A lost connection resumes without a gap.

    With `--output json`, every frame is one line of JSON.
    """
    state = state_of(context, output)
    job_id = show.job_id(job)

    async def work() -> None:
        async with market_of(state) as market:
            async for frame in market.logs(job_id, "metrics" if metrics else "logs", after):
                _show_frame(state, frame)

    run(work())


@app.command()
def stop(context: typer.Context, job: JobArgument, yes: YesOption = False, output: OutputOption = None) -> None:
    """End a running job now. The seconds used are paid (at least the minimum), the rest comes back at once."""
    state = state_of(context, output)
    _send(state, job, yes, "end this job now?", lambda market, job_id: market.stop(job_id))


@app.command()
def cancel(context: typer.Context, job: JobArgument, yes: YesOption = False, output: OutputOption = None) -> None:
    """Take a job back that no provider accepted yet. All of its money returns to your escrow balance."""
    state = state_of(context, output)
    _send(state, job, yes, "cancel this job?", lambda market, job_id: market.cancel(job_id))


@app.command()
def dispute(
    context: typer.Context,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="What went wrong, for people; at most 256 bytes.")],
    yes: YesOption = False,
    output: OutputOption = None,
) -> None:
    """Object to a job: the clock stops, the contested money waits, the oracle committee decides."""
    state = state_of(context, output)
    _send(state, job, yes, "object to this job?", lambda market, job_id: market.dispute(job_id, reason))


@app.command()
def claim(context: typer.Context, job: JobArgument, yes: YesOption = False, output: OutputOption = None) -> None:
    """Execute the deadline that is due: take your money back from a provider that went silent, or pay the last share.

    Anyone may. Which call is due, and when, stands in the contract.
    """
    state = state_of(context, output)
    _send(state, job, yes, "execute what is due?", lambda market, job_id: market.claim(job_id))


@app.command()
def extend(
    context: typer.Context,
    job: JobArgument,
    extra: Annotated[str, typer.Option("--by", help="More time: 30m, 2h.")],
    yes: YesOption = False,
    output: OutputOption = None,
) -> None:
    """Buy more time for a running job at its locked price."""
    state = state_of(context, output)
    seconds = show.duration(extra)
    question = f"pay for {show.seconds(seconds)} more?"
    _send(state, job, yes, question, lambda market, job_id: market.extend(job_id, seconds))


@app.command()
def pull(
    context: typer.Context,
    job: JobArgument,
    dest: Annotated[Path | None, typer.Argument(help="Folder to write to; by default results-<job>.")] = None,
    output: OutputOption = None,
) -> None:
    """Fetch a job's results from its provider; every block is checked against the CID that is on chain."""
    state = state_of(context, output)
    job_id = show.job_id(job)
    path = dest or Path(f"results-{job_id[2:10]}")
    if path.exists():
        raise MarketError("invalid_argument", f"{path} exists already", hint="name another folder")

    async def work() -> None:
        async with market_of(state, with_account=False) as market:
            pulled = await market.pull(job_id, path, progress_to_stderr(state))
            columns = (Column("results", "path"), Column("files", "files"), Column("root", "root"))
            state.printer.record(pulled.as_row(), columns)

    run(work())


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """A transaction for programs."""
    return {"tx_hash": receipt.tx_hash, "block_number": receipt.block_number, "gas_used": receipt.gas_used}


RECEIPT_COLUMNS = (Column("transaction", "tx_hash"), Column("block", "block_number"), Column("gas used", "gas_used"))


def _send(
    state: State, job: str, yes: bool, question: str, act: Callable[[MarketClient, str], Awaitable[Receipt]]
) -> None:
    job_id = show.job_id(job)

    async def work() -> None:
        async with market_of(state) as market:
            view = await market.status(job_id)
            token = market.chain.deployment.payment_token
            amounts = show.money(token.symbol, token.decimals)
            state.printer.note(f"job {job_id} is {view.job.status.name}")
            state.printer.note(f"owed so far {amounts(view.accrued)}, comes back {amounts(view.refundable)}")
            state.confirm(question, yes)
            state.printer.record(receipt_row(await act(market, job_id)), RECEIPT_COLUMNS)

    run(work())


def _show_frame(state: State, frame: Frame) -> None:
    data = frame.data
    if state.output in (OutputFormat.JSON, OutputFormat.YAML):
        state.printer.line(json.dumps(data))
    elif frame.type == "log":
        state.printer.line(str(data.get("line", "")))
    elif frame.type == "metrics":
        state.printer.line(json.dumps({key: value for key, value in data.items() if key != "type"}))
    elif frame.type == "status":
        done, total = data.get("bytesDone"), data.get("bytesTotal")
        part = f" {done} of {total} bytes" if done is not None and total else ""
        error = data.get("error")
        why = (
            f": {error.get('message') or error.get('code')}"
            if isinstance(error, dict)
            else f": {error}"
            if error
            else ""
        )
        state.printer.note(f"[{data.get('phase')}]{part}{why}")
    elif frame.type == "end":
        code = data.get("exitCode")
        state.printer.note(
            f"[ended: {data.get('reason') or 'done'}" + ("]" if code is None else f", exit code {code}]")
        )
