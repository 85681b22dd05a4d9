"""Gas of every entry point and of whole rentals, from the receipts of real transactions on a node of its own.

`python -m tests.gas` measures, prints the table and writes tests/gas.json; `--check` writes nothing and fails if that
is stale. Warm: both parties, the platform's fees and the escrow have held the token before, and every machine was
rented before. The payment token is OpenZeppelin's plain ERC-20 with permits; the escrow has an infinite allowance
where no permit is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_utils.crypto import keccak

from gpumarket.chain.codec import checksum, encode_call
from gpumarket.chain.deployments import Deployment
from gpumarket.rules.units import Address
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil
from tests.parts.market import UNIT, accounts, bytecode, deploy_market, transact

SNAPSHOT = Path(__file__).with_name("gas.json")
HOUR = 3600
PRICE = 3_600 * 10**15
IMAGE = b"\x11" * 32
RESULT = b"\x22" * 32
MAX = 2**256 - 1
FOREVER = 2**40 - 1
MACHINES = 24
REQUEST = "(bytes32,bytes32,uint40,uint128,address,bytes)"
OFFER = "(bytes32,uint128,address,uint32,uint32,uint40,uint64,bytes32)"
OFFER_TYPE = (
    "Offer(bytes32 resourceId,uint128 pricePerHour,address paymentToken,uint32 minSeconds,uint32 maxSeconds,"
    "uint40 validUntil,uint64 epoch,bytes32 renters)"
)
REPORT_TYPE = (
    "Report(bytes32 configDigest,uint64 seq,uint64 epoch,bytes32 outcomesRoot,uint32 count,bytes32 evidenceDigest)"
)
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"

# Published or measured elsewhere: 46-byte metadata for Oyster; PoCo's fast path; Boundless as it publishes.
NEIGHBOURS: dict[str, tuple[str, str, str]] = {
    "create_job": ("235,840", "739,881", "195,488"),
    "settle": ("61,494", "", ""),
    "top_up": ("56,056", "64,206", "33,807"),
    "complete": ("148,278", "324,335", "116,712"),
    "refund_dead_provider": ("148,278", "146,888", "101,892"),
    "withdraw": ("78,614", "60,959", "40,509"),
    "lifecycle": ("384,118", "1,427,571", "312,200"),
}
GOALS = {
    "create_job": 165_000,
    "create_job_with_permit": 200_000,
    "create_job_from_offer": 190_000,
    "accept_and_start": 75_000,
    "settle": 50_000,
    "settle_batch_20": 20_000,
    "top_up": 52_000,
    "extend": 52_000,
    "complete": 80_000,
    "lifecycle": 290_000,
    "refund_dead_provider": 90_000,
    "report_k5": 85_000,
}


class Bench:
    """One market with a renter and a provider of many machines; every call returns its gas."""

    def __init__(self, node: Anvil, dispute: int) -> None:
        self.node = node
        self.admin, self.renter, self.provider, self.stranger = accounts(node)[:4]
        self.signers = sorted((Account.from_key(keccak(text=f"member {i}")) for i in range(5)), key=lambda a: a.address)
        members = tuple((signer.address, "http://oracle.example") for signer in self.signers)
        self.d: Deployment = deploy_market(node, members, 5, (3600, 3600, dispute, 3600))
        made = transact(
            node, self.admin, None, bytecode("PlainToken") + encode(["address", "uint256"], [self.admin, 10**9 * UNIT])
        )
        self.token = checksum(made["contractAddress"])
        self.to(self.admin, "PaymentEscrow", "allowToken(address)", self.token)
        for account in (self.renter, self.provider, self.stranger):
            self.send(self.admin, self.token, "transfer(address,uint256)", account, 10**6 * UNIT)
            self.send(self.admin, self.d.addresses["GPUToken"], "transfer(address,uint256)", account, 10**6 * UNIT)
            self.approve(account, MAX)
            self.send(
                account,
                self.d.addresses["GPUToken"],
                "approve(address,uint256)",
                self.d.addresses["StakeVault"],
                MAX,
            )
        self.to(self.provider, "StakeVault", "stake(uint256)", 100 * MACHINES * UNIT)
        self.to(self.provider, "ResourceRegistry", "registerProvider(string)", "https://provider.example")
        for _ in range(MACHINES):
            self.to(
                self.provider,
                "ResourceRegistry",
                "registerResource((string,uint16,uint16,uint32,uint32,uint128,address,uint32,uint32,bytes32))",
                ("NVIDIA H200", 1, 16, 128, 64, PRICE, self.token, 60, 86_400 * 30, bytes(32)),
            )
        self.warm()

    # ------------------------------------------------------------------ sending

    def send(self, sender: Address, to: Address, signature: str, *arguments: Any) -> int:
        return int(transact(self.node, sender, to, encode_call(signature, *arguments))["gasUsed"], 16)

    def to(self, sender: Address, contract: str, signature: str, *arguments: Any) -> int:
        return self.send(sender, self.d.addresses[contract], signature, *arguments)

    def market(self, sender: Address, name: str, job: bytes) -> int:
        return self.to(sender, "Marketplace", f"{name}(bytes32)", job)

    def read(self, contract: str, signature: str, *arguments: Any) -> str:
        call = {"to": self.d.addresses[contract], "data": "0x" + encode_call(signature, *arguments).hex()}
        return str(self.node.rpc("eth_call", call, "latest"))

    def approve(self, account: Address, amount: int) -> int:
        return self.send(account, self.token, "approve(address,uint256)", self.d.addresses["PaymentEscrow"], amount)

    # ------------------------------------------------------------------ the life

    def machine(self, number: int) -> bytes:
        return bytes.fromhex(self.provider[2:]) + number.to_bytes(12, "big")

    def request(self, number: int) -> tuple[Any, ...]:
        return self.machine(number), IMAGE, HOUR, PRICE, self.token, b""

    def create(self, number: int = 1) -> tuple[bytes, int]:
        gas = self.to(self.renter, "Marketplace", f"createJob({REQUEST})", self.request(number))
        return self.job(number), gas

    def job(self, number: int) -> bytes:
        return bytes.fromhex(self.read("Marketplace", "activeJobOf(bytes32)", self.machine(number))[2:])

    def running(self, number: int = 1) -> bytes:
        job, _ = self.create(number)
        self.market(self.provider, "acceptAndStartJob", job)
        return job

    def complete(self, job: bytes) -> int:
        return self.to(self.provider, "Marketplace", "completeJob(bytes32,bytes32)", job, RESULT)

    def balance(self, account: Address) -> int:
        return int(self.read("PaymentEscrow", "balanceOf(address,address)", self.token, account), 16)

    def empty(self, account: Address) -> None:
        """Takes all of an account's balance out of the escrow."""
        if amount := self.balance(account):
            self.withdraw(account, amount)

    def withdraw(self, account: Address, amount: int) -> int:
        return self.to(account, "PaymentEscrow", "withdraw(address,uint256,address)", self.token, amount, account)

    def deposit(self, amount: int) -> int:
        return self.to(self.renter, "PaymentEscrow", "deposit(address,uint256)", self.token, amount)

    def warm(self) -> None:
        """Every machine was rented once, and everybody was paid once."""
        self.deposit(500 * UNIT)
        for number in range(1, MACHINES + 1):
            job = self.running(number)
            self.node.travel(1800)
            self.complete(job)
            self.node.travel(HOUR)
            if int(self.read("Marketplace", "nextDeadline(bytes32)", job)[2:66], 16):
                self.market(self.stranger, "settleJob", job)

    # ---------------------------------------------------------------- signatures

    def domain(self, name: str, contract: Address) -> bytes:
        return keccak(
            keccak(text=DOMAIN_TYPE)
            + keccak(text=name)
            + keccak(text="1")
            + encode(["uint256", "address"], [self.d.chain_id, contract])
        )

    def sign(self, key: Any, domain: bytes, struct: bytes) -> Any:
        return Account.unsafe_sign_hash(keccak(b"\x19\x01" + domain + struct), key)

    def permitted(self, number: int) -> int:
        """Creation with a permit, by a renter whose escrow has no allowance."""
        self.approve(self.renter, 0)
        amount = PRICE
        escrow = self.d.addresses["PaymentEscrow"]
        nonces = {"to": self.token, "data": "0x" + encode_call("nonces(address)", self.renter).hex()}
        nonce = int(self.node.rpc("eth_call", nonces, "latest"), 16)
        struct = keccak(
            encode(
                ["bytes32", "address", "address", "uint256", "uint256", "uint256"],
                [
                    keccak(text="Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                    *(self.renter, escrow, amount, nonce, FOREVER),
                ],
            )
        )
        signed = self.sign(ANVIL_KEYS[1], self.domain("Plain", self.token), struct)
        gas = self.to(
            self.renter,
            "Marketplace",
            f"createJobWithPermit({REQUEST},(uint256,uint256,uint8,bytes32,bytes32))",
            self.request(number),
            (amount, FOREVER, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")),
        )
        self.approve(self.renter, MAX)
        return gas

    def offered(self, number: int) -> int:
        """Creation from the provider's signed offer."""
        values = (self.machine(number), PRICE, self.token, 60, 86_400, FOREVER, 0, bytes(32))
        types = OFFER[1:-1].split(",")
        struct = keccak(keccak(text=OFFER_TYPE) + encode(types, values))
        registry = self.d.addresses["ResourceRegistry"]
        signed = self.sign(ANVIL_KEYS[2], self.domain("gpumarket ResourceRegistry", registry), struct)
        return self.to(
            self.renter,
            "Marketplace",
            f"createJobFromOffer({REQUEST},{OFFER},bytes,bytes32[])",
            *(self.request(number), values, bytes(signed.signature), []),
        )

    def report(self, seq: int) -> int:
        """A report with five signatures of five."""
        digest = bytes.fromhex(self.read("OracleCommittee", "configDigest()")[2:])
        values = (digest, seq, 1000 + seq, keccak(text=f"root {seq}"), 7, keccak(text="evidence"))
        types = ["bytes32", "uint64", "uint64", "bytes32", "uint32", "bytes32"]
        struct = keccak(keccak(text=REPORT_TYPE) + encode(types, values))
        domain = self.domain("gpumarket OracleCommittee", self.d.addresses["OracleCommittee"])
        signatures = b""
        for signer in self.signers:
            signed = self.sign(signer.key, domain, struct)
            signatures += signed.r.to_bytes(32, "big") + (signed.s | ((signed.v - 27) << 255)).to_bytes(32, "big")
        signature = "submitValidationReport((bytes32,uint64,uint64,bytes32,uint32,bytes32),uint256,bytes)"
        return self.to(self.stranger, "OracleCommittee", signature, values, 31, signatures)


def measure() -> dict[str, int]:
    """The whole table."""
    with anvil() as node:
        table = _at_once(Bench(node, dispute=0))
    with anvil() as node:
        table |= _with_a_window(Bench(node, dispute=600))
    return dict(sorted(table.items()))


def _at_once(b: Bench) -> dict[str, int]:
    """What is the same with any window, and endings without one: the provider is credited as the job completes."""
    table: dict[str, int] = {}
    b.empty(b.renter)
    job, table["create_job"] = b.create()
    table["accept"] = b.market(b.provider, "acceptJob", job)
    table["start"] = b.market(b.provider, "startJob", job)
    b.node.travel(1800)
    b.deposit(100 * UNIT)
    table["complete_and_pay"] = b.complete(job)
    job, table["create_job_from_balance"] = b.create()
    table["accept_and_start"] = b.market(b.provider, "acceptAndStartJob", job)
    b.node.travel(600)
    table["settle"] = b.market(b.stranger, "settleJob", job)
    table["extend"] = b.to(b.renter, "Marketplace", "extendJob(bytes32,uint40)", job, HOUR)
    b.node.travel(600)
    table["stop"] = b.market(b.renter, "stopJob", job)
    table["top_up"] = b.deposit(UNIT)
    table["withdraw"] = b.withdraw(b.provider, UNIT)
    b.empty(b.renter)
    table["create_job_with_permit"] = b.permitted(2)
    table["create_job_from_offer"] = b.offered(3)
    # The first report writes its sequence number into an empty word.
    b.report(1)
    table["report_k5"] = b.report(2)
    table |= {f"lifecycle{name}": gas for name, gas in _lifecycles(b).items()}
    b.empty(b.renter)
    b.deposit(100 * UNIT)
    jobs = [b.running(number) for number in range(5, 25)]
    b.node.travel(600)
    table["settle_batch_20"] = b.to(b.stranger, "Marketplace", "settleBatch(bytes32[])", jobs) // 20
    return table


def _lifecycles(b: Bench) -> dict[str, int]:
    """Create, accept and start, complete after half of the paid time; the provider credited, the rest refunded."""

    def rest(number: int, started: str) -> int:
        job = b.job(number)
        gas = b.market(b.provider, started, job)
        b.node.travel(1800)
        return gas + b.complete(job)

    b.empty(b.renter)
    b.deposit(100 * UNIT)
    found = {}
    _, gas = b.create(4)
    found[""] = gas + rest(4, "acceptAndStartJob")
    gas = b.offered(4)
    found["_from_offer"] = gas + rest(4, "startJob")
    b.empty(b.renter)
    _, gas = b.create(4)
    found["_from_wallet"] = gas + rest(4, "acceptAndStartJob")
    return found


def _with_a_window(b: Bench) -> dict[str, int]:
    """A dead host's job, ended by a stranger: the renter has the rest back at once."""
    job = b.running()
    b.node.travel(600)
    committee = b.d.addresses["OracleCommittee"]
    b.node.rpc("anvil_impersonateAccount", committee)
    b.node.rpc("anvil_setBalance", committee, hex(10**20))
    now = int(b.node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    b.to(committee, "Marketplace", "recordDeath(bytes32,uint40)", job, now - 60)
    table = {"refund_dead_provider": b.market(b.stranger, "endJob", job)}
    b.node.travel(HOUR)
    job = b.running()
    b.node.travel(600)
    table["complete"] = b.complete(job)
    b.node.travel(HOUR)
    table["settle_after_window"] = b.market(b.stranger, "settleJob", job)
    return table


def show(table: dict[str, int]) -> str:
    """The table beside the neighbours'."""
    lines = [f"{'gas, full transactions':<26}{'ours':>10}{'goal':>10}{'Oyster':>10}{'PoCo':>11}{'Boundless':>11}"]
    for name, gas in table.items():
        goal = f"{GOALS[name]:,}" if name in GOALS else ""
        oyster, poco, boundless = NEIGHBOURS.get(name, ("", "", ""))
        missed = "  over the goal" if name in GOALS and gas > GOALS[name] else ""
        lines.append(f"{name:<26}{gas:>10,}{goal:>10}{oyster:>10}{poco:>11}{boundless:>11}{missed}")
    return "\n".join(lines)


def stale(measured: dict[str, int], committed: dict[str, int]) -> list[str]:
    """What differs between two tables, in words."""
    return [
        f"{name}: committed {committed.get(name)}, measured {measured.get(name)}"
        for name in sorted({*measured, *committed})
        if measured.get(name) != committed.get(name)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed table is stale")
    check = parser.parse_args().check
    table = measure()
    print(show(table))
    if not check:
        SNAPSHOT.write_text(json.dumps(table, indent=2) + "\n")
        return 0
    differences = stale(table, json.loads(SNAPSHOT.read_text()))
    print("\n".join(differences))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
