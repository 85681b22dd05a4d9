"""Deploys a whole market and writes deployments/<chainId>.json.

`ape run deploy --network ethereum:local:http://127.0.0.1:8545` on a development chain; elsewhere with
`--account ALIAS`, an encrypted key file of Ape. Nothing here is a secret: the key stays with Ape.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import rlp
from ape import accounts, chain, networks, project
from ape.api import AccountAPI
from ape.cli import ConnectedProviderCommand
from ape.contracts import ContractInstance
from eth_utils import keccak, to_checksum_address

DEVELOPMENT_CHAINS = frozenset({1337, 31337})
UNIT = 10**18
SUPPLY = 1_000_000_000 * UNIT
FUND_TOKENS = 100_000 * UNIT
FUND_NATIVE = 100 * UNIT
# What the deployer sends, in this order; each address follows from its place.
ORDER = (
    "GPUToken",
    "StakeVault",
    "PaymentEscrow",
    "ResourceRegistry.implementation",
    "ResourceRegistry",
    "ReputationSystem.implementation",
    "ReputationSystem",
    "Marketplace.implementation",
    "Marketplace",
    "OracleCommittee.implementation",
    "OracleCommittee",
)


@dataclass(frozen=True)
class Parameters:
    """What a deployment fixes. Times in seconds, amounts in base units."""

    accept: int
    start: int
    dispute: int
    verdict: int
    fee_bps: int
    stake_per_resource: int
    unbonding: int
    slash_amount: int
    inconvenience: int
    members: tuple[tuple[str, str], ...]
    threshold: int

    def check(self) -> None:
        """Raise click.UsageError for parameters that would leave somebody unprotected."""
        if self.unbonding <= self.dispute:
            raise click.UsageError("--unbonding must be longer than --dispute-window")
        if not 1 <= self.threshold <= len(self.members):
            raise click.UsageError(
                f"--threshold {self.threshold} needs that many --member options, got {len(self.members)}"
            )

    def windows(self) -> tuple[int, int, int, int]:
        return self.accept, self.start, self.dispute, self.verdict


def parse_member(text: str) -> tuple[str, str]:
    """`0xADDRESS=URL` as (signer, endpoint)."""
    address, separator, url = text.partition("=")
    if not separator or not url:
        raise click.BadParameter(f"expected ADDRESS=URL, got {text!r}")
    return to_checksum_address(address), url


def predict(deployer: str, nonce: int) -> dict[str, str]:
    """The address of every contract, before any is deployed: they know each other as immutables."""
    raw = bytes.fromhex(deployer[2:])
    return {
        name: to_checksum_address(keccak(rlp.encode([raw, nonce + place]))[12:]) for place, name in enumerate(ORDER)
    }


def deploy(deployer: AccountAPI, admin: str, parameters: Parameters) -> tuple[dict[str, ContractInstance], int]:
    """Every contract by its name in `ORDER`, and the block of the first one."""
    at = predict(deployer.address, deployer.nonce)
    first = chain.blocks.head.number + 1
    made: dict[str, ContractInstance] = {}

    def create(name: str, container: Any, *arguments: Any) -> None:
        contract = deployer.deploy(container, *arguments)
        if contract.address != at[name]:
            raise click.ClickException(
                f"{name} landed on {contract.address}, not {at[name]}: another transaction came between"
            )
        made[name] = contract

    def create_proxied(name: str, constructor: tuple[Any, ...], initializer: tuple[Any, ...]) -> None:
        container = getattr(project, name)
        create(f"{name}.implementation", container, *constructor)
        implementation = made[f"{name}.implementation"]
        data = implementation.initialize.encode_input(*initializer)
        create(name, project.MarketProxy, implementation.address, data)

    create("GPUToken", project.GPUToken, admin, SUPPLY)
    create(
        "StakeVault",
        project.StakeVault,
        at["GPUToken"],
        at["OracleCommittee"],
        parameters.stake_per_resource,
        parameters.unbonding,
    )
    create("PaymentEscrow", project.PaymentEscrow, admin, at["Marketplace"])
    create_proxied(
        "ResourceRegistry",
        (at["PaymentEscrow"], at["StakeVault"], at["ReputationSystem"], at["OracleCommittee"], at["GPUToken"]),
        (admin,),
    )
    create_proxied("ReputationSystem", (at["Marketplace"], at["OracleCommittee"]), (admin,))
    create_proxied(
        "Marketplace",
        (
            (
                at["PaymentEscrow"],
                at["ResourceRegistry"],
                at["StakeVault"],
                at["ReputationSystem"],
                at["OracleCommittee"],
            ),
            parameters.windows(),
        ),
        (admin, parameters.fee_bps),
    )
    create_proxied(
        "OracleCommittee",
        (
            (at["Marketplace"], at["ResourceRegistry"], at["ReputationSystem"], at["StakeVault"]),
            parameters.slash_amount,
            parameters.inconvenience,
        ),
        (admin, list(parameters.members), parameters.threshold),
    )
    return made, first


def document(made: dict[str, ContractInstance], block: int, admin: str, parameters: Parameters) -> dict[str, Any]:
    """The deployment file: what `gpumarket.chain.deployments` reads."""
    contracts = {
        name: {
            "address": made[name].address,
            "implementation": made[f"{name}.implementation"].address if f"{name}.implementation" in made else None,
        }
        for name in ORDER
        if "." not in name
    }
    return {
        "chainId": chain.chain_id,
        "block": block,
        "contracts": contracts,
        "paymentToken": {"address": made["GPUToken"].address, "symbol": "GPU", "decimals": 18},
        "parameters": {
            "admin": admin,
            "acceptWindow": parameters.accept,
            "startWindow": parameters.start,
            "disputeWindow": parameters.dispute,
            "verdictWindow": parameters.verdict,
            "feeBps": parameters.fee_bps,
            "stakePerResource": str(parameters.stake_per_resource),
            "unbonding": parameters.unbonding,
            "slashAmount": str(parameters.slash_amount),
            "inconvenience": str(parameters.inconvenience),
            "threshold": parameters.threshold,
            "members": [{"signer": signer, "endpoint": endpoint} for signer, endpoint in parameters.members],
        },
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` in one step, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def fund(deployer: AccountAPI, token: ContractInstance, receivers: tuple[str, ...]) -> None:
    """Tokens and native coin for each receiver; the deployer must hold the supply."""
    for receiver in receivers:
        token.transfer(receiver, FUND_TOKENS, sender=deployer)
        deployer.transfer(receiver, FUND_NATIVE)


@click.command(cls=ConnectedProviderCommand, name="deploy")
@click.option("--account", "alias", help="Ape key file alias. Default on development chains: the first test account.")
@click.option("--admin", help="Who may upgrade and change parameters. Default: the deployer.")
@click.option("--member", "members", multiple=True, help="ADDRESS=URL of an oracle; repeat.")
@click.option(
    "--threshold", type=int, help="Signatures a report needs. Default: two thirds of the members, rounded up."
)
@click.option("--accept-window", "accept", type=int, default=120, show_default=True)
@click.option("--start-window", "start", type=int, default=300, show_default=True)
@click.option("--dispute-window", "dispute", type=int, default=4, show_default=True)
@click.option("--verdict-window", "verdict", type=int, default=60, show_default=True)
@click.option("--fee-bps", type=click.IntRange(0, 500), default=200, show_default=True)
@click.option("--stake", "stake_tokens", type=int, default=100, show_default=True, help="Tokens per listed resource.")
@click.option("--unbonding", type=int, default=3600, show_default=True, help="Seconds; longer than the dispute window.")
@click.option(
    "--slash", "slash_tokens", type=int, default=50, show_default=True, help="Tokens per proven wrong answer."
)
@click.option("--inconvenience", "inconvenience_tokens", type=int, default=5, show_default=True)
@click.option(
    "--fund", "receivers", multiple=True, help="Development chains only: tokens and coin for ADDRESS; repeat."
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("deployments"), show_default=True)
def cli(
    alias: str | None,
    admin: str | None,
    members: tuple[str, ...],
    threshold: int | None,
    accept: int,
    start: int,
    dispute: int,
    verdict: int,
    fee_bps: int,
    stake_tokens: int,
    unbonding: int,
    slash_tokens: int,
    inconvenience_tokens: int,
    receivers: tuple[str, ...],
    output: Path,
) -> None:
    """Deploy the whole market and write OUTPUT/<chainId>.json."""
    development = chain.chain_id in DEVELOPMENT_CHAINS
    if not development and (alias is None or receivers):
        raise click.UsageError("outside development chains --account is needed and --fund refused")
    deployer = accounts.load(alias) if alias else accounts.test_accounts[0]
    owner = to_checksum_address(admin) if admin else deployer.address
    if receivers and owner != deployer.address:
        raise click.UsageError("--fund spends the deployer's tokens: leave --admin out")
    committee = tuple(parse_member(member) for member in members) or ((deployer.address, ""),)
    parameters = Parameters(
        accept=accept,
        start=start,
        dispute=dispute,
        verdict=verdict,
        fee_bps=fee_bps,
        stake_per_resource=stake_tokens * UNIT,
        unbonding=unbonding,
        slash_amount=slash_tokens * UNIT,
        inconvenience=inconvenience_tokens * UNIT,
        members=committee,
        threshold=threshold or -(-2 * len(committee) // 3),
    )
    parameters.check()

    made, block = deploy(deployer, owner, parameters)
    if owner == deployer.address:
        made["PaymentEscrow"].allowToken(made["GPUToken"].address, sender=deployer)
    else:
        click.echo(f"to do for {owner}: PaymentEscrow.allowToken({made['GPUToken'].address})", err=True)
    fund(deployer, made["GPUToken"], tuple(to_checksum_address(receiver) for receiver in receivers))

    path = output / f"{chain.chain_id}.json"
    write(path, document(made, block, owner, parameters))
    click.echo(f"{path}: market {made['Marketplace'].address} on {networks.provider.network.choice}")
