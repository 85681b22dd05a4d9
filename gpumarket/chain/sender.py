"""Sending transactions so that each does its work once: over crashes, lost nodes, low fees and reorganizations.

The only file that sees a private key. Order of a send: simulate, take the next nonce, sign, store the bytes, broadcast.
Whatever happens after the store, the same bytes (so the same transaction) go out again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.codec import checksum, hex_of
from gpumarket.chain.development import DEVELOPMENT_ACCOUNTS, DEVELOPMENT_CHAINS
from gpumarket.chain.journal import Attempt, Intent, IntentState, Journal, NonceTaken
from gpumarket.chain.node import Fees, Node
from gpumarket.chain.typed_data import TypedData, signable
from gpumarket.chain.types import Receipt
from gpumarket.config import secret
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

GWEI = 10**9
FINAL_DEPTH = 64
_NONCE_TRIES = 8
_MAY_PASS = frozenset({"chain_unreachable", "insufficient_gas_funds", "transaction_not_mined"})
_REBROADCAST_S = 5.0
_FIRST_POLL_S = 0.01


class Signer:
    """An account that can sign. Its key never leaves this file."""

    def __init__(self, account: LocalAccount) -> None:
        self._account = account
        self.address: Address = checksum(account.address)

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def sign_typed(self, data: TypedData) -> bytes:
        """65 bytes: r, s, v.

        Raises:
            MarketError: `development_key_refused`: the message is for a chain where anybody has this key.
        """
        refuse_development_key(self.address, int(data.domain["chainId"]))
        return bytes(self._account.sign_message(signable(data)).signature)

    def sign_transaction(self, transaction: dict[str, Any]) -> tuple[bytes, str]:
        """The raw transaction and its hash."""
        refuse_development_key(self.address, transaction["chainId"])
        signed = self._account.sign_transaction(transaction)
        return bytes(signed.raw_transaction), hex_of(bytes(signed.hash))


def load_account(keystore_path: Path | None, environ: Mapping[str, str] | None = None) -> Signer:
    """The account of a keystore V3 file (passphrase from GPUMARKET_PASSPHRASE or GPUMARKET_PASSPHRASE_FILE), or of
    GPUMARKET_PRIVATE_KEY if no keystore is named.

    Raises:
        MarketError: `invalid_config`: no key, an unreadable keystore, or a wrong passphrase.
    """
    if keystore_path is None:
        key = secret("GPUMARKET_PRIVATE_KEY", environ)
        if key is None:
            raise MarketError(
                "invalid_config", "no key: neither a keystore nor GPUMARKET_PRIVATE_KEY is set", hint="set keystore"
            )
        return _signer(key, "GPUMARKET_PRIVATE_KEY")
    passphrase = secret("GPUMARKET_PASSPHRASE", environ)
    if passphrase is None:
        raise MarketError("invalid_config", f"GPUMARKET_PASSPHRASE is not set, so {keystore_path} stays locked")
    try:
        return _signer(Account.decrypt(json.loads(keystore_path.read_text()), passphrase), str(keystore_path))
    except OSError as error:
        raise MarketError("invalid_config", f"cannot read keystore {keystore_path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RuntimeError):
        raise MarketError("invalid_config", f"{keystore_path} is no keystore, or the passphrase is wrong") from None


def create_keystore(path: Path, passphrase: str) -> Address:
    """Make a new account and write its keystore, readable by its owner only. Never overwrites.

    Raises:
        MarketError: `invalid_config`: the file exists or cannot be written; `invalid_argument`: an empty passphrase.
    """
    if not passphrase:
        raise MarketError("invalid_argument", "a keystore needs a passphrase")
    account: LocalAccount = Account.create()
    text = json.dumps(Account.encrypt(account.key, passphrase))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MarketError("invalid_config", f"cannot write keystore {path}: {error.strerror}") from None
    return checksum(account.address)


def refuse_development_key(address: Address, chain_id: int) -> None:
    """Keep keys that everybody knows away from money that is real.

    Raises:
        MarketError: `development_key_refused`.
    """
    if address in DEVELOPMENT_ACCOUNTS and chain_id not in DEVELOPMENT_CHAINS:
        raise MarketError(
            "development_key_refused",
            f"the key of {address} is public; it may not be used on chain {chain_id}",
            hint="create a keystore of your own",
        )


class Sender:
    """One account's transactions. Concurrent sends are put in a row; confirmations wait side by side.

    Args:
        db_path: the journal. It belongs to this account on this chain and must not be lost while something is pending.
        bump_after_s: without inclusion for so long, a transaction is replaced by one that pays an eighth more.
        displaced_after_s: a nonce that is used while no receipt of ours shows up for so long was used by somebody else.
            Too short a time signs a deed twice when a node lags behind itself.
        max_fee_cap: wei per gas that no transaction pays more than.
        poll_s: at most, between two looks at a pending transaction.
    """

    def __init__(
        self,
        client: ChainClient,
        signer: Signer,
        db_path: Path,
        *,
        bump_after_s: float = 30.0,
        displaced_after_s: float = 20.0,
        max_fee_cap: int = 500 * GWEI,
        poll_s: float = 0.25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        refuse_development_key(signer.address, client.chain_id)
        self.address = signer.address
        self.signer = signer
        self._client = client
        self._node = Node(client, signer.address)
        self._journal = Journal(db_path)
        self._bump_after_s = bump_after_s
        self._displaced_after_s = displaced_after_s
        self._max_fee_cap = max_fee_cap
        self._poll_s = poll_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._bound = False
        self._told: dict[str, float] = {}  # transaction hash to its last broadcast
        self._foreign: dict[str, float] = {}  # key to when its nonce was first seen used without a receipt

    async def execute(self, key: str, call: Call, timeout_s: float = 60.0) -> Receipt:
        """`send`, then `confirm`."""
        await self.send(key, call)
        return await self.confirm(key, timeout_s)

    async def send(self, key: str, call: Call) -> str:
        """Send `call` once under `key`, which names the deed; the transaction's hash.

        The first call under a key is the one: again with the same key, nothing new is signed and the known bytes go out
        again. A key whose simulation failed (no nonce spent) or whose transaction reverted can be used again.

        Raises:
            MarketError: the contract's refusal found by simulation (see `reverts`), `insufficient_gas_funds`,
                `chain_unreachable` and `transaction_not_mined` (it may be stored: send again, with the same key),
                `chain_mismatch`.
        """
        async with self._lock:
            await self._bind()
            intent = await asyncio.to_thread(self._journal.find, key)
            if intent is None or intent.state is IntentState.REVERTED:
                return await self._send_new(key, 0 if intent is None else intent.round + 1, call)
            if intent.state is IntentState.PENDING:
                await self._advance(key)
                intent = await self._intent(key)
            newest = (await self._attempts(intent))[0]
            return newest.tx_hash

    async def confirm(self, key: str, timeout_s: float = 60.0) -> Receipt:
        """Wait for the receipt of what was sent under `key`, and see that it gets mined.

        Raises:
            MarketError: the contract's refusal, `transaction_reverted`, `transaction_not_mined` (it may still be),
                `chain_unreachable` (the node did not come back in time), `not_found` (nothing was sent under `key`).
        """
        deadline = self._clock() + timeout_s
        pause = min(_FIRST_POLL_S, self._poll_s)
        trouble = MarketError("transaction_not_mined", f"{key} is not mined after {timeout_s:g} s", key=key)
        while True:
            try:
                async with self._lock:
                    await self._bind()
                    receipt = await self._advance(key)
                if receipt is not None:
                    return await self._effective(key, receipt)
            except MarketError as error:
                if error.code not in _MAY_PASS:
                    raise
                trouble = error
            if self._clock() >= deadline:
                raise trouble
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._poll_s)

    async def resume(self) -> None:
        """Take care of everything unfinished, in nonce order: at start, and now and then after.

        Broadcasts what is pending, replaces what is stuck, and broadcasts again what a reorganization undid.

        Raises:
            MarketError: `chain_unreachable`, `chain_mismatch`.
        """
        async with self._lock:
            await self._bind()
            for intent in await asyncio.to_thread(self._journal.unfinished):
                await _unless_refused(self._advance(intent.key))
            # Also what reverted and was reorganized away: a missing nonce holds up all after it.
            for raw in await asyncio.to_thread(self._journal.newest_from, await self._node.mined_nonces()):
                await _unless_refused(self._node.broadcast(raw))

    async def close(self) -> None:
        """Close the journal."""
        async with self._lock:
            await asyncio.to_thread(self._journal.close)

    # ----------------------------------------------------------------- private

    async def _bind(self) -> None:
        if not self._bound:
            identity = await self._node.identity()
            await asyncio.to_thread(self._journal.bind, identity)
            self._bound = True

    async def _send_new(self, key: str, round_: int, call: Call) -> str:
        gas, fees = await asyncio.gather(self._node.estimate(call), self._node.fees(self._max_fee_cap))
        await self._node.check_funds(gas * fees.max_fee + call.value)
        for _ in range(_NONCE_TRIES):
            nonce = max(await self._node.mined_nonces(), await asyncio.to_thread(self._journal.next_nonce))
            attempt = self._sign(call, nonce, gas, fees)
            try:
                await asyncio.to_thread(self._journal.add, key, round_, call, attempt)
            except NonceTaken:
                continue
            await self._tell(attempt)
            return attempt.tx_hash
        raise MarketError("chain_unreachable", f"another sender keeps taking the nonces of {self.address}")

    async def _advance(self, key: str) -> Receipt | None:
        """One look at an intent: its receipt if it is mined, else whatever brings that nearer."""
        intent = await self._intent(key)
        attempts = await self._attempts(intent)
        receipt = await self._receipt(attempts)
        if receipt is not None:
            await self._note_mined(intent, receipt)
            return receipt
        if intent.state is not IntentState.PENDING:  # a reorganization undid it
            await asyncio.to_thread(self._journal.set_state, key, IntentState.PENDING, None)
        newest = attempts[0]
        now = self._clock()
        if await self._is_displaced(intent, attempts):
            fees = await self._node.fees(self._max_fee_cap)
            nonce = max(await self._node.mined_nonces(), await asyncio.to_thread(self._journal.next_nonce))
            again = self._sign(intent.call, nonce, newest.gas, fees)
            await asyncio.to_thread(self._journal.add, key, intent.round, intent.call, again)
            del self._foreign[key]
            await self._tell(again)
        elif now - newest.signed_at >= self._bump_after_s:
            await self._replace(intent, newest)
        elif now - self._told.get(newest.tx_hash, 0) >= _REBROADCAST_S:
            await self._tell(newest)
        return None

    async def _replace(self, intent: Intent, newest: Attempt) -> None:
        """Same nonce, same calldata, fees up by an eighth or to what the market asks now, whichever is more."""
        asked = await self._node.fees(self._max_fee_cap)
        fees = Fees(newest.max_fee, newest.priority_fee).raised(asked, self._max_fee_cap)
        if fees is None:
            await self._tell(newest)
            return
        attempt = self._sign(intent.call, intent.nonce, newest.gas, fees)
        await asyncio.to_thread(self._journal.add_attempt, intent.key, intent.round, attempt)
        await self._tell(attempt)

    async def _is_displaced(self, intent: Intent, attempts: list[Attempt]) -> bool:
        """Whether a foreign transaction used the nonce. Called when the attempts had no receipt a moment ago."""
        if await self._node.mined_nonces() <= intent.nonce or await self._receipt(attempts):
            self._foreign.pop(intent.key, None)
            return False
        now = self._clock()
        return now - self._foreign.setdefault(intent.key, now) >= self._displaced_after_s

    async def _note_mined(self, intent: Intent, receipt: Receipt) -> None:
        self._told.pop(receipt.tx_hash, None)
        if not receipt.status:
            state = IntentState.REVERTED
        elif await self._node.head() - receipt.block_number >= FINAL_DEPTH:
            state = IntentState.FINAL
        else:
            state = IntentState.MINED
        if (state, receipt.block_number) != (intent.state, intent.block_number):
            await asyncio.to_thread(self._journal.set_state, intent.key, state, receipt.block_number)

    async def _effective(self, key: str, receipt: Receipt) -> Receipt:
        if receipt.status:
            return receipt
        intent = await self._intent(key)
        raise await self._node.reason(intent.call, receipt)

    async def _receipt(self, attempts: list[Attempt]) -> Receipt | None:
        for attempt in attempts:
            receipt = await self._client.receipt(attempt.tx_hash)
            if receipt is not None:
                return receipt
        return None

    async def _attempts(self, intent: Intent) -> list[Attempt]:
        return await asyncio.to_thread(self._journal.attempts, intent)

    async def _intent(self, key: str) -> Intent:
        intent = await asyncio.to_thread(self._journal.find, key)
        if intent is None:
            raise MarketError("not_found", f"nothing was sent under {key}")
        return intent

    async def _tell(self, attempt: Attempt) -> None:
        await self._node.broadcast(attempt.raw)
        self._told[attempt.tx_hash] = self._clock()

    def _sign(self, call: Call, nonce: int, gas: int, fees: Fees) -> Attempt:
        raw, tx_hash = self.signer.sign_transaction(
            {
                "type": 2,
                "chainId": self._client.chain_id,
                "nonce": nonce,
                "to": call.to,
                "value": call.value,
                "data": call.data,
                "gas": gas,
                "maxFeePerGas": fees.max_fee,
                "maxPriorityFeePerGas": fees.priority_fee,
            }
        )
        return Attempt(tx_hash, nonce, raw, gas, fees.max_fee, fees.priority_fee, self._clock())


async def _unless_refused(work: Awaitable[object]) -> None:
    """Let one transaction's trouble not keep the others from being looked after."""
    try:
        await work
    except MarketError as error:
        if error.code == "chain_unreachable" or error.code not in _MAY_PASS:
            raise


def _signer(key: Any, source: str) -> Signer:
    try:
        return Signer(Account.from_key(key))
    except Exception:  # eth_account raises many kinds, some of which show the key
        raise MarketError("invalid_config", f"{source} holds no private key: 32 bytes of hex") from None
