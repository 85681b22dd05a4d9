"""The sender on a real node: one effect for one key, whatever happens in between."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpumarket.chain import calls
from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.codec import checksum, encode_call, keccak
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.rpc import Rpc
from gpumarket.chain.sender import GWEI, Sender, load_account
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil
from tests.parts.market import UNIT, accounts, deploy_market

pytestmark = pytest.mark.anvil

SIGNER = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[0]})


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Anvil, Deployment]]:
    with anvil() as node:
        yield node, deploy_market(node)


@pytest.fixture
async def client(chain: tuple[Anvil, Deployment]) -> AsyncIterator[ChainClient]:
    node, deployment = chain
    node.rpc("evm_setAutomine", True)
    client = await ChainClient.connect(node.url, deployment)
    yield client
    await client.close()


def sender_of(client: ChainClient, path: Path, bump_after_s: float = 30.0, max_fee_cap: int = 500 * GWEI) -> Sender:
    return Sender(
        *(client, SIGNER, path / "sender.db"),
        bump_after_s=bump_after_s,
        displaced_after_s=0.2,
        max_fee_cap=max_fee_cap,
        poll_s=0.02,
    )


def fresh(name: str) -> Address:
    """An account nobody used yet."""
    return checksum("0x" + keccak(name.encode())[12:].hex())


def gift(to: Address, wei: int = 1) -> Call:
    return Call(to, b"", wei, "gift")


async def test_default_behavior(client: ChainClient, tmp_path: Path) -> None:
    sender = sender_of(client, tmp_path)
    receipt = await sender.execute("a", gift(fresh("default"), 7))
    assert receipt.status
    assert receipt.from_ == SIGNER.address
    assert await client.native_balance(fresh("default")) == 7
    await sender.close()


async def test_one_key_has_one_effect(client: ChainClient, tmp_path: Path) -> None:
    sender = sender_of(client, tmp_path)
    first = await sender.send("a", gift(fresh("one key")))
    await sender.confirm("a")
    assert await sender.send("a", gift(fresh("one key"))) == first
    assert (await sender.execute("a", gift(fresh("one key")))).tx_hash == first
    assert await client.native_balance(fresh("one key")) == 1
    await sender.close()


async def test_concurrent_sends_get_rising_nonces(client: ChainClient, tmp_path: Path) -> None:
    sender = sender_of(client, tmp_path)
    receipts = await asyncio.gather(*(sender.execute(f"k{i}", gift(fresh("concurrent"))) for i in range(12)))
    assert len({receipt.tx_hash for receipt in receipts}) == 12
    assert await client.native_balance(fresh("concurrent")) == 12
    await sender.close()


async def test_a_failed_simulation_spends_no_nonce(client: ChainClient, tmp_path: Path) -> None:
    sender = sender_of(client, tmp_path)
    before = await client.rpc.request("eth_getTransactionCount", [SIGNER.address, "latest"])
    with pytest.raises(MarketError) as refused:
        await sender.send("a", calls.accept_job(client.deployment, "0x" + "11" * 32))
    assert refused.value.code == "job_status_invalid"
    assert refused.value.details["contract_error"] == "JobStatusInvalid"
    assert (await sender.execute("a", gift(fresh("after refusal")))).status
    after = await client.rpc.request("eth_getTransactionCount", [SIGNER.address, "latest"])
    assert int(after, 16) == int(before, 16) + 1
    await sender.close()


async def test_a_reverted_key_can_be_used_again(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, deployment = chain
    sender = sender_of(client, tmp_path)
    most, other = await client.token_balance(SIGNER.address) * 2 // 3, accounts(node)[1]
    await sender.execute("approve", calls.approve(deployment, other, most))
    node.rpc("evm_setAutomine", False)
    await sender.send("a", calls.transfer(deployment, fresh("hoard"), most))
    overtaking = {  # pays better, so it is mined first and takes what the transfer needs
        "from": other,
        "to": deployment.payment_token.address,
        "data": "0x" + encode_call("transferFrom(address,address,uint256)", SIGNER.address, other, most).hex(),
        "gas": hex(300_000),
        "maxFeePerGas": hex(10**12),
        "maxPriorityFeePerGas": hex(10**11),
    }
    node.rpc("eth_sendTransaction", overtaking)
    node.mine()
    with pytest.raises(MarketError) as reverted:
        await sender.confirm("a")
    assert reverted.value.code == "insufficient_balance"
    node.rpc("evm_setAutomine", True)
    assert (await sender.execute("a", calls.transfer(deployment, fresh("hoard"), UNIT))).status
    assert await client.token_balance(fresh("hoard")) == UNIT
    await sender.close()


async def test_a_stuck_transaction_is_replaced_and_has_one_effect(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, _ = chain
    node.rpc("evm_setAutomine", False)
    sender = sender_of(client, tmp_path, bump_after_s=0.2)
    first = await sender.send("a", gift(fresh("stuck")))
    with pytest.raises(MarketError) as late:
        await sender.confirm("a", timeout_s=0.5)
    assert late.value.code == "transaction_not_mined"
    pool = node.rpc("txpool_content")["pending"]
    [waiting] = [by_nonce for account, by_nonce in pool.items() if checksum(account) == SIGNER.address]
    [replacement] = waiting.values()
    assert replacement["hash"] != first
    node.mine()
    receipt = await sender.confirm("a")
    assert receipt.status
    assert receipt.tx_hash != first
    assert await client.native_balance(fresh("stuck")) == 1
    await sender.close()


async def test_a_transaction_the_node_forgot_goes_out_again(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, _ = chain
    node.rpc("evm_setAutomine", False)
    sender = sender_of(client, tmp_path)
    sent = await sender.send("a", gift(fresh("forgotten")))
    node.rpc("anvil_dropTransaction", sent)
    await sender.resume()
    node.mine()
    assert (await sender.confirm("a")).tx_hash == sent
    assert await client.native_balance(fresh("forgotten")) == 1
    await sender.close()


async def test_a_transaction_that_a_reorganization_undid_goes_out_again(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, _ = chain
    sender = sender_of(client, tmp_path)
    node.mine(3)
    mined = await sender.execute("a", gift(fresh("reorganized")))
    node.mine()
    node.rpc("anvil_reorg", 3, [])
    assert await client.native_balance(fresh("reorganized")) == 0
    await sender.resume()
    node.mine()
    again = await sender.confirm("a")
    assert again.tx_hash == mined.tx_hash
    assert again.block_hash != mined.block_hash
    assert await client.native_balance(fresh("reorganized")) == 1
    await sender.close()


async def test_a_nonce_that_another_program_used_is_replaced(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, _ = chain
    node.rpc("evm_setAutomine", False)
    sender = sender_of(client, tmp_path)
    sent = await sender.send("a", gift(fresh("displaced")))
    node.rpc("anvil_dropTransaction", sent)
    nonce = node.rpc("eth_getTransactionCount", SIGNER.address, "latest")
    node.rpc("eth_sendTransaction", {"from": SIGNER.address, "to": fresh("foreign"), "value": "0x1", "nonce": nonce})
    node.mine()
    node.rpc("evm_setAutomine", True)
    receipt = await sender.confirm("a")
    assert receipt.tx_hash != sent
    assert await client.native_balance(fresh("displaced")) == 1
    await sender.close()


async def test_a_transaction_the_node_refuses_for_now_is_kept_and_sent_later(
    chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path
) -> None:
    node, _ = chain
    base_fee = node.rpc("eth_getBlockByNumber", "latest", False)["baseFeePerGas"]
    sender = sender_of(client, tmp_path, max_fee_cap=GWEI)
    node.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
    node.mine()
    for _ in range(2):
        with pytest.raises(MarketError) as refused:
            await sender.send("a", gift(fresh("later")))
        assert refused.value.code == "transaction_not_mined"
    await sender.resume()
    node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI // 2))
    node.mine()
    assert (await sender.execute("a", gift(fresh("later")))).status
    assert await client.native_balance(fresh("later")) == 1
    node.rpc("anvil_setNextBlockBaseFeePerGas", base_fee)
    await sender.close()


async def test_a_node_that_hangs_is_unreachable_and_then_usable_again(tmp_path: Path) -> None:
    with anvil() as node:
        account = accounts(node)[0]
        deployment = deploy_market(node)
        client = ChainClient(Rpc(node.url, timeout_s=0.3), deployment)
        sender = sender_of(client, tmp_path)
        await sender.execute("a", gift(fresh("hang")))
        node.process.send_signal(signal.SIGSTOP)
        with pytest.raises(MarketError) as gone:
            await sender.send("b", gift(fresh("hang")))
        assert gone.value.code == "chain_unreachable"
        node.process.send_signal(signal.SIGCONT)
        assert (await sender.execute("b", gift(fresh("hang")))).status
        assert await client.native_balance(fresh("hang")) == 2
        assert account == SIGNER.address
        await sender.close()
        await client.close()


async def test_a_node_that_is_gone_is_unreachable_and_then_usable_again(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with anvil() as node:
        deployment = deploy_market(node)
        port = int(node.url.rsplit(":", 1)[1])
        client = await ChainClient.connect(node.url, deployment)
        assert await client.fee_bps() == 200
        state.write_text(node.rpc("anvil_dumpState"))
    with pytest.raises(MarketError) as gone:
        await client.fee_bps()
    assert gone.value.code == "chain_unreachable"
    with anvil(port=port) as node:
        node.rpc("anvil_loadState", state.read_text())
        assert await client.fee_bps() == 200
    await client.close()


async def test_another_chain_is_refused(chain: tuple[Anvil, Deployment], client: ChainClient, tmp_path: Path) -> None:
    node, deployment = chain
    sender = sender_of(client, tmp_path)
    await sender.execute("a", gift(fresh("elsewhere")))
    await sender.close()
    with anvil() as other:
        other.rpc("evm_increaseTime", 1)
        elsewhere = await ChainClient.connect(other.url, deployment)
        moved = sender_of(elsewhere, tmp_path)
        other_genesis = other.rpc("eth_getBlockByNumber", "0x0", False)["hash"]
        assert other_genesis != node.rpc("eth_getBlockByNumber", "0x0", False)["hash"]
        with pytest.raises(MarketError) as mismatch:
            await moved.send("b", gift(fresh("elsewhere")))
        assert mismatch.value.code == "chain_mismatch"
        await moved.close()
        await elsewhere.close()
    wrong = Deployment(1, deployment.addresses, 0, deployment.payment_token)
    with pytest.raises(MarketError) as mismatch:
        await ChainClient.connect(node.url, wrong)
    assert mismatch.value.code == "chain_mismatch"


async def test_an_unknown_key_cannot_be_confirmed(client: ChainClient, tmp_path: Path) -> None:
    sender = sender_of(client, tmp_path)
    with pytest.raises(MarketError) as missing:
        await sender.confirm("never sent")
    assert missing.value.code == "not_found"
    await sender.close()


async def test_an_empty_account_sends_nothing(client: ChainClient, tmp_path: Path) -> None:
    signer = load_account(None, {"GPUMARKET_PRIVATE_KEY": "0x" + "5a" * 32})
    sender = Sender(client, signer, tmp_path / "poor.db", poll_s=0.02)
    with pytest.raises(MarketError) as poor:
        await sender.send("a", calls.register_provider(client.deployment, "http://poor"))
    assert poor.value.code == "insufficient_gas_funds"
    with pytest.raises(MarketError, match="nothing was sent"):
        await sender.confirm("a")
    await sender.close()
