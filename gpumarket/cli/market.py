"""How a command reaches the market: settings, and the passphrase of the key, asked for where nobody set it."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager

import typer

from gpumarket import config
from gpumarket.cli.state import State
from gpumarket.client import MarketClient, RenterSettings, connect

_VARIABLE = "GPUMARKET_PASSPHRASE"


def market_of(state: State, *, with_account: bool = True) -> AbstractAsyncContextManager[MarketClient]:
    """The market with this invocation's settings; a person at a terminal is asked for the passphrase."""
    settings = state.settings()
    passphrase = _asked(settings) if with_account else None
    return connect(settings, with_account=with_account, passphrase=passphrase)


def _asked(settings: RenterSettings) -> str | None:
    if settings.keystore is None or config.secret(_VARIABLE) is not None or not sys.stdin.isatty():
        return None
    return str(typer.prompt(f"passphrase of {settings.keystore}", hide_input=True, err=True))
