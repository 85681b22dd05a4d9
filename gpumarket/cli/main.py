"""The `gpumarket` command: global options, the list of commands, and how errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gpumarket.cli.lazy import Entry, lazy_group
from gpumarket.cli.output import OutputFormat, Printer
from gpumarket.cli.state import State
from gpumarket.errors import MarketError

_RENTER, _HOST, _TOOLS = "Rent", "Run a part of the market", "Tools"
_ME = "gpumarket.cli."

COMMANDS: dict[str, Entry] = {
    "push": Entry("Put a container image on IPFS; prints its root CID.", _RENTER, _ME + "push"),
    "list": Entry("Find machines to rent.", _RENTER, _ME + "offers"),
    "rent": Entry("Rent a machine: shows the whole price, asks, sends one transaction.", _RENTER, _ME + "rent"),
    "status": Entry("Show a job, or all your jobs.", _RENTER, _ME + "jobs"),
    "logs": Entry("Follow a job's output, live and after it ended.", _RENTER, _ME + "jobs"),
    "stop": Entry("End a running job; pay for the time used, get the rest back.", _RENTER, _ME + "jobs"),
    "cancel": Entry("Take a job back that no provider accepted yet; all money returns.", _RENTER, _ME + "jobs"),
    "dispute": Entry("Object to a job: the clock stops, the committee decides.", _RENTER, _ME + "jobs"),
    "claim": Entry("Execute the deadline that is due: money back from a silent provider.", _RENTER, _ME + "jobs"),
    "extend": Entry("Buy more time for a running job, at the locked price.", _RENTER, _ME + "jobs"),
    "pull": Entry("Fetch a job's results, verified block by block.", _RENTER, _ME + "jobs"),
    "wallet": Entry("Your account: show, create, deposit, withdraw.", _RENTER, _ME + "wallet", whole=True),
    "agent": Entry("The provider's agent, on a machine that is rented out.", _HOST),
    "oracle": Entry("A member of the oracle committee.", _HOST),
    "indexer": Entry("The indexer: the chain as GraphQL.", _HOST),
    "gateway": Entry("The gateway: one address for people and programs.", _HOST),
    "dev": Entry("The whole market on this machine; `dev demo` shows one rental.", _TOOLS, _ME + "dev", whole=True),
    "ipfs": Entry(
        "Content by its CID: add, get, import, export, ls, pin, gc, serve.", _TOOLS, _ME + "ipfs", whole=True
    ),
    "version": Entry("The version of gpumarket.", _TOOLS, _ME + "version"),
}

EPILOG = """
**Exit codes**: 0 done; 1 a defect; 2 bad input; 3 not found; 4 not allowed; 5 money; 6 state or timing; 7 content that
cannot be trusted; 8 a needed part is out of reach; 9 this machine lacks something; 130 interrupted.

**Keys** come from a keystore file (`--keystore`, or `keystore` in the configuration) with its passphrase in
`GPUMARKET_PASSPHRASE` or in the file named by `GPUMARKET_PASSPHRASE_FILE`; or from `GPUMARKET_PRIVATE_KEY`. Never from
an argument.

**Settings**: flags, then environment (`GPUMARKET_RENTER_RPC_URL`, `GPUMARKET_RPC_URL`, ...), then the `[renter]` table
of the configuration file.
"""

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the process's exit code."""
    state = State()
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="gpumarket", obj=state)
    except MarketError as error:
        Printer(state.output).error(error)
        return error.kind.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BrokenPipeError:
        return 0
    return 0


@app.callback()
def options(
    context: typer.Context,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How results are printed.")
    ] = OutputFormat.TABLE,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file (TOML).", envvar="GPUMARKET_CONFIG", exists=True, dir_okay=False),
    ] = None,
    rpc_url: Annotated[str | None, typer.Option(help="JSON-RPC address of the chain's node.")] = None,
    gateway_url: Annotated[str | None, typer.Option(help="Address of the gateway.")] = None,
    deployments: Annotated[
        Path | None, typer.Option(help="Where the market's contracts are: a file or a folder.")
    ] = None,
    keystore: Annotated[Path | None, typer.Option(help="Keystore file (V3) of your account.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of your content store.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where your transactions are kept.")] = None,
) -> None:
    """Rent GPUs from anybody, rent yours out to anybody. The money waits in escrow, and only proven time is paid."""
    state: State = context.obj
    state.output = output
    state.config = config
    state.flags = {
        "rpc_url": rpc_url,
        "gateway_url": gateway_url,
        "deployments": deployments,
        "keystore": keystore,
        "store": store,
        "data_dir": data_dir,
    }


if __name__ == "__main__":
    sys.exit(main())
