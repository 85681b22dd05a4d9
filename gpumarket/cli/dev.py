"""`gpumarket dev`: the whole market on this machine, and the demo."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gpumarket.cli.state import state_of
from gpumarket.dev.demo import demo as run_demo
from gpumarket.dev.market import LocalMarket, local_market
from gpumarket.errors import MarketError

T = TypeVar("T")

app = typer.Typer(
    invoke_without_command=True,
    help="The whole market on this machine, every part a process of its own, until Ctrl-C.",
)

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Keep data and logs here; by default a temporary folder.")
]


@app.callback()
def dev(context: typer.Context, data_dir: DataDirOption = None) -> None:
    """Start the whole market on this machine and stay up until Ctrl-C; then nothing of it is left."""
    if context.invoked_subcommand is not None:
        return
    note = state_of(context).printer.note

    async def work() -> None:
        async with local_market(Path.cwd(), data_dir, note) as market:
            for line in _addresses(market):
                note(line)
            market.supervisor.revive = note
            note("ready; Ctrl-C stops everything")
            with contextlib.suppress(asyncio.CancelledError):  # from here on Ctrl-C is the normal end
                raise MarketError("internal", await asyncio.shield(market.supervisor.failed))

    interruptible(work())


@app.command()
def demo(
    context: typer.Context,
    receipt: Annotated[Path, typer.Option(help="Where the receipt is written.")] = Path("demo-receipt.json"),
    data_dir: DataDirOption = None,
) -> None:
    """One rental through every part, nothing faked; exit code 0 only if every number adds up against the chain."""
    if not interruptible(run_demo(Path.cwd(), data_dir, receipt)):
        raise MarketError("internal", "the rental's numbers do not add up", hint=f"see the checks in {receipt}")


def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; the first Ctrl-C, SIGTERM or hang-up cancels, and cleaning up is never cut short by another.

    Raises:
        typer.Exit: code 130 when interrupted.
    """

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise typer.Exit(130) from None


def _addresses(market: LocalMarket) -> list[str]:
    places = market.places
    return [
        f"chain       {places.rpc_url} (chain id {market.deployment.chain_id})",
        f"gateway     {places.gateway_url}  (GraphQL at /graphql)",
        f"indexer     {places.indexer_url}",
        f"agent       {places.agent_url}",
        *(f"oracle {i}    {places.oracle_url(i)}" for i in range(len(places.ports.oracles))),
        f"your store  {places.store_url}",
        f"contracts   {places.deployments}",
        "you are a renter with tokens; in another terminal:",
        f"  export GPUMARKET_CONFIG={places.renter_config} GPUMARKET_PASSPHRASE_FILE={places.passphrase_file}",
        "  gpumarket list",
    ]
