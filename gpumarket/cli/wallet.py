"""`gpumarket wallet`: an account, its money, and its way in and out of the escrow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpumarket import config
from gpumarket.chain.sender import create_keystore
from gpumarket.chain.types import Receipt
from gpumarket.cli import show
from gpumarket.cli.jobs import RECEIPT_COLUMNS, receipt_row
from gpumarket.cli.market import market_of
from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, YesOption, run, state_of
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address
from gpumarket.sdk.settings import own_keystore

app = typer.Typer(no_args_is_help=True, help="Your account: show, create, deposit, withdraw.")


@app.command("show")
def show_wallet(context: typer.Context, output: OutputOption = None) -> None:
    """Balances: in the wallet, in the escrow (spendable and withdrawable), and native coin for gas."""
    state = state_of(context, output)

    async def work() -> None:
        async with market_of(state) as market:
            wallet = await market.wallet()
            amounts = show.money(wallet.symbol, wallet.decimals)
            columns = (
                Column("address", "address"),
                Column("wallet", "wallet", amounts),
                Column("escrow balance", "escrow", amounts),
                Column("escrow may take", "allowance", amounts),
                Column("for gas", "native", show.money("native coin", 18)),
            )
            state.printer.record(wallet.as_row(), columns)

    run(work())


@app.command()
def create(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="Keystore file to write (V3, as Ape and geth use); by default your own.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Make a new key in an encrypted keystore file. The passphrase comes from GPUMARKET_PASSPHRASE, or is asked for."""
    state = state_of(context, output)
    path = path or own_keystore()
    if path.exists():
        raise MarketError("invalid_argument", f"{path} exists already", hint="a key is never overwritten")
    passphrase = config.secret("GPUMARKET_PASSPHRASE")
    if passphrase is None:
        passphrase = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    address = create_keystore(path, passphrase)
    columns = (Column("address", "address"), Column("keystore", "keystore"))
    state.printer.record({"address": address, "keystore": str(path)}, columns)


@app.command()
def deposit(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="How much, e.g. 12.5.")],
    yes: YesOption = False,
    output: OutputOption = None,
) -> None:
    """Move tokens from the wallet into your escrow balance; rentals then need no transfer of their own."""
    state = state_of(context, output)

    async def work() -> None:
        async with market_of(state) as market:
            token = market.chain.deployment.payment_token
            base_units = show.amount(amount, token.decimals)
            state.confirm(f"deposit {amount} {token.symbol} into the escrow?", yes)
            _show_receipts(context, await market.deposit(base_units))

    run(work())


@app.command()
def withdraw(
    context: typer.Context,
    amount: Annotated[str | None, typer.Argument(help="How much; by default everything.")] = None,
    to: Annotated[str | None, typer.Option(help="Another address to send it to.")] = None,
    yes: YesOption = False,
    output: OutputOption = None,
) -> None:
    """Take your escrow balance out: refunds, and a provider's earnings."""
    state = state_of(context, output)

    async def work() -> None:
        async with market_of(state) as market:
            token = market.chain.deployment.payment_token
            balance = (await market.wallet()).escrow
            base_units = balance if amount is None else show.amount(amount, token.decimals)
            if not 0 < base_units <= balance:
                raise MarketError(
                    "insufficient_balance", f"the escrow balance is {show.money(token.symbol, token.decimals)(balance)}"
                )
            target = market.account.address if to is None else Address(to)
            text = show.money(token.symbol, token.decimals)(base_units)
            state.confirm(f"withdraw {text} to {target}?", yes)
            _show_receipts(context, (await market.withdraw(base_units, target),))

    run(work())


def _show_receipts(context: typer.Context, receipts: tuple[Receipt, ...]) -> None:
    state_of(context).printer.rows([receipt_row(receipt) for receipt in receipts], RECEIPT_COLUMNS)
