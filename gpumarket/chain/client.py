"""Reading the chain: the market's views as plain data, blocks, and raw logs."""

from __future__ import annotations

import asyncio
from typing import Any

from gpumarket.chain.codec import bytes32, bytes_of, checksum, decode, encode_call, hex_of
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.reverts import revert_error
from gpumarket.chain.rpc import Rpc, RpcRefused
from gpumarket.chain.types import (
    Block,
    Committee,
    Deadline,
    Escrow,
    Job,
    Member,
    RawLog,
    Receipt,
    Reputation,
    Resource,
    Stake,
    Windows,
)
from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import NO_ID, Address, JobId, ResourceId

JOB = (
    "(bytes32,address,address,bytes32,address,uint8,uint40,uint40,uint40,uint40,"
    "uint32,uint32,uint40,uint40,uint128,uint96)"
)
RESOURCE = (
    "(address,string,uint16,uint16,uint32,uint32,uint128,address,uint32,uint32,bool,uint64,uint256,uint40,bytes32)"
)
ESCROW = "(bytes32,address,address,address,uint96,uint16,bool)"
REPUTATION = "(uint16,bool,uint32,uint32,uint32,uint32,uint32,uint40)"


class ChainClient:
    """A node that serves the market's chain. Every method raises `chain_unreachable` when it stays silent."""

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        self.rpc = rpc
        self.deployment = deployment
        self.chain_id = deployment.chain_id
        self._log_addresses = [deployment.addresses[name] for name in deployment.addresses if name != "GPUToken"]

    @classmethod
    async def connect(cls, rpc_url: str, deployment: Deployment) -> ChainClient:
        """Reach the node and check that it serves the deployment's chain.

        Raises:
            MarketError: `chain_unreachable`, `chain_mismatch`.
        """
        rpc = Rpc(rpc_url)
        try:
            served = int(await rpc.request("eth_chainId", []), 16)
            if served != deployment.chain_id:
                raise MarketError(
                    "chain_mismatch",
                    f"the node serves chain {served}, the deployment is on {deployment.chain_id}",
                    hint="check rpc_url and the deployments directory",
                )
        except BaseException:
            await rpc.close()
            raise
        return cls(rpc, deployment)

    async def close(self) -> None:
        """Give the connections back."""
        await self.rpc.close()

    # ---------------------------------------------------------- blocks and logs

    async def block(self, which: int | str) -> Block:
        """A block by number, hash, or tag (latest, safe, finalized).

        Raises:
            MarketError: `not_found`: the node has no such block (yet).
        """
        if isinstance(which, int):
            method, key = "eth_getBlockByNumber", hex(which)
        else:
            method, key = ("eth_getBlockByHash" if which.startswith("0x") else "eth_getBlockByNumber"), which
        header = await self._request(method, [key, False])
        if header is None:
            raise MarketError("not_found", f"the node has no block {which}")
        return Block(int(header["number"], 16), header["hash"], header["parentHash"], int(header["timestamp"], 16))

    async def logs(self, from_block: int, to_block: int) -> list[RawLog]:
        """Raw logs of all the market's contracts, both blocks included, in chain order.

        Raises:
            MarketError: `chain_unreachable`, also if the node refuses the range; ask for a smaller one then.
        """
        window = {"fromBlock": hex(from_block), "toBlock": hex(to_block), "address": self._log_addresses}
        logs: list[RawLog] = await self._request("eth_getLogs", [window])
        return logs

    async def logs_of_block(self, block_hash: str) -> list[RawLog]:
        """Raw logs of one block by its hash; safe against reorganizations."""
        found: list[RawLog] = await self._request(
            "eth_getLogs", [{"blockHash": block_hash, "address": self._log_addresses}]
        )
        return found

    async def receipt(self, tx_hash: str) -> Receipt | None:
        """The receipt of a mined transaction, None while it is not in the chain."""
        found = await self._request("eth_getTransactionReceipt", [tx_hash])
        return None if found is None or found.get("blockNumber") is None else _receipt(found)

    # ------------------------------------------------------------------ market

    async def job(self, job_id: str) -> Job:
        """Raises MarketError `not_found` for an unknown job."""
        (value,) = await self._read("Marketplace", "getJob(bytes32)", f"({JOB})", bytes32(job_id))
        job = _job(value)
        if job.status is JobStatus.NONE:
            raise MarketError("not_found", f"there is no job {job_id}")
        return job

    async def next_deadline(self, job_id: str) -> Deadline:
        (value,) = await self._read("Marketplace", "nextDeadline(bytes32)", "((bytes4,uint40))", bytes32(job_id))
        return Deadline(*value)

    async def active_job_of(self, resource_id: str) -> JobId | None:
        """The job that has the resource now, None if it is free."""
        (value,) = await self._read("Marketplace", "activeJobOf(bytes32)", "(bytes32)", bytes32(resource_id))
        job_id = hex_of(value)
        return None if job_id == NO_ID else JobId(job_id)

    async def billable_seconds(self, job_id: str, timestamp: int) -> int:
        """Seconds that would be billed if the job ended at `timestamp`."""
        signature = "billableSeconds(bytes32,uint40)"
        (value,) = await self._read("Marketplace", signature, "(uint40)", bytes32(job_id), timestamp)
        return int(value)

    async def fee_bps(self) -> int:
        (value,) = await self._read("Marketplace", "feeBps()", "(uint16)")
        return int(value)

    async def windows(self) -> Windows:
        (value,) = await self._read("Marketplace", "windows()", "((uint32,uint32,uint32,uint32))")
        return Windows(*value)

    # --------------------------------------------------------------- resources

    async def resource(self, resource_id: str) -> Resource:
        """Raises MarketError `not_found` for an unknown resource."""
        (value,) = await self._read("ResourceRegistry", "getResource(bytes32)", f"({RESOURCE})", bytes32(resource_id))
        values = [ResourceId(hex_of(bytes32(resource_id))), checksum(value[0]), *value[1:]]
        values[8] = checksum(value[7])
        return Resource(*values)

    async def provider_resources(self, provider: Address) -> list[ResourceId]:
        (value,) = await self._read("ResourceRegistry", "getProviderResources(address)", "(bytes32[])", provider)
        return [ResourceId(hex_of(resource_id)) for resource_id in value]

    async def endpoint_of(self, provider: Address) -> str:
        """The public URL of the provider's agent, empty if it is not registered."""
        (value,) = await self._read("ResourceRegistry", "endpointOf(address)", "(string)", provider)
        return str(value)

    # ------------------------------------------------------------------- money

    async def escrow(self, job_id: str) -> Escrow:
        """Raises MarketError `not_found` for an unknown job."""
        (value,) = await self._read("PaymentEscrow", "escrows(bytes32)", f"({ESCROW})", bytes32(job_id))
        return Escrow(JobId(hex_of(value[0])), checksum(value[1]), checksum(value[2]), checksum(value[3]), *value[4:])

    async def escrow_balance(self, account: Address, token: Address | None = None) -> int:
        """What `account` can withdraw or rent with, in base units of `token` (default: the market's)."""
        chosen = token or self.deployment.payment_token.address
        (value,) = await self._read("PaymentEscrow", "balanceOf(address,address)", "(uint256)", chosen, account)
        return int(value)

    async def token_balance(self, account: Address, token: Address | None = None) -> int:
        return int(await self._token(token, "balanceOf(address)", "(uint256)", account))

    async def native_balance(self, account: Address) -> int:
        """Wei, for gas."""
        return int(await self._request("eth_getBalance", [account, "latest"]), 16)

    async def gas_price(self) -> int:
        """Wei per gas that the node suggests now."""
        return int(await self._request("eth_gasPrice", []), 16)

    async def allowance(self, owner: Address, spender: Address | None = None, token: Address | None = None) -> int:
        """What `spender` (default: the escrow) may take of `owner`'s wallet."""
        allowed = spender or self.deployment.addresses["PaymentEscrow"]
        return int(await self._token(token, "allowance(address,address)", "(uint256)", owner, allowed))

    async def permit_nonce(self, owner: Address, token: Address | None = None) -> int:
        return int(await self._token(token, "nonces(address)", "(uint256)", owner))

    async def token_name(self, token: Address | None = None) -> str:
        """The token's name, part of its permit's domain."""
        return str(await self._token(token, "name()", "(string)"))

    # -------------------------------------------------------- stake, reputation

    async def stake_of(self, account: Address) -> Stake:
        (value,) = await self._read("StakeVault", "stakeOf(address)", "((uint128,uint128,uint40))", account)
        return Stake(*value)

    async def required_stake(self, resources: int) -> int:
        """Active stake that so many listed machines need, in base units."""
        (value,) = await self._read("StakeVault", "requiredStake(uint256)", "(uint256)", resources)
        return int(value)

    async def reputation(self, provider: Address) -> Reputation:
        (value,) = await self._read("ReputationSystem", "scores(address)", f"({REPUTATION})", provider)
        return Reputation(*value)

    async def committee(self) -> Committee:
        """Members in their order, which the report's bit mask counts."""
        members, threshold, digest, latest = await asyncio.gather(
            self._read("OracleCommittee", "members()", "((address,string)[])"),
            self._read("OracleCommittee", "threshold()", "(uint8)"),
            self._read("OracleCommittee", "configDigest()", "(bytes32)"),
            self._read("OracleCommittee", "latestSeq()", "(uint64)"),
        )
        found = tuple(Member(checksum(signer), endpoint) for signer, endpoint in members[0])
        return Committee(found, threshold[0], digest[0], latest[0])

    async def outcomes_root(self, seq: int) -> bytes:
        """The root of a stored report, 32 zero bytes if there is none."""
        (value,) = await self._read("OracleCommittee", "outcomesRootOf(uint64)", "(bytes32)", seq)
        return bytes(value)

    async def is_applied(self, seq: int, index: int) -> bool:
        (value,) = await self._read("OracleCommittee", "isApplied(uint64,uint32)", "(bool)", seq, index)
        return bool(value)

    # ----------------------------------------------------------------- private

    async def _token(self, token: Address | None, signature: str, returns: str, *arguments: Any) -> Any:
        to = token or self.deployment.payment_token.address
        return (await self._view(to, signature, returns, arguments))[0]

    async def _read(self, contract: str, signature: str, returns: str, *arguments: Any) -> tuple[Any, ...]:
        return await self._view(self.deployment.addresses[contract], signature, returns, arguments)

    async def _view(self, to: Address, signature: str, returns: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        data = hex_of(encode_call(signature, *arguments))
        try:
            answer = await self.rpc.request("eth_call", [{"to": to, "data": data}, "latest"])
        except RpcRefused as error:
            raise revert_error(error) from error
        if answer == "0x":
            raise MarketError("chain_mismatch", f"there is no contract with {signature} at {to}")
        return decode((returns[1:-1],), bytes_of(answer))

    async def _request(self, method: str, params: list[Any]) -> Any:
        try:
            return await self.rpc.request(method, params)
        except RpcRefused as error:
            raise MarketError("chain_unreachable", f"the node refuses {method}: {error.message[:200]}") from error


def _job(value: tuple[Any, ...]) -> Job:
    job_id, user, provider, resource_id, token, status, *rest = value
    return Job(
        JobId(hex_of(job_id)),
        checksum(user),
        checksum(provider),
        ResourceId(hex_of(resource_id)),
        checksum(token),
        JobStatus(status),
        *rest,
    )


def _receipt(found: dict[str, Any]) -> Receipt:
    to = found.get("to")
    return Receipt(
        tx_hash=found["transactionHash"],
        block_number=int(found["blockNumber"], 16),
        block_hash=found["blockHash"],
        gas_used=int(found["gasUsed"], 16),
        effective_gas_price=int(found.get("effectiveGasPrice", "0x0"), 16),
        status=int(found["status"], 16) == 1,
        logs=tuple(found["logs"]),
        from_=checksum(found["from"]),
        to=None if to is None else checksum(to),
    )
