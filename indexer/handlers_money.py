"""What each event of the escrow and the stake vault means for the tables: one function per event, pure.

Every movement of tokens also leaves a row in `payments`: who got or gave what, for which job, in which transaction.
"""

from __future__ import annotations

from typing import Any

from gpumarket.chain import events
from gpumarket.rules.units import NO_ADDRESS
from indexer.state import Row, State

# ------------------------------------------------------------------- the escrow


def token_allowed(state: State, event: events.TokenAllowed, at: int) -> None:
    state.put("tokens", {"id": event.token, "index": event.index, "allowed": True})


def token_removed(state: State, event: events.TokenRemoved, at: int) -> None:
    state.put("tokens", {**state.need("tokens", event.token, event), "allowed": False})


def deposited(state: State, event: events.Deposited, at: int) -> None:
    _pay(state, event, at, "DEPOSITED", event.account, event.token, event.amount)


def withdrawn(state: State, event: events.Withdrawn, at: int) -> None:
    _pay(state, event, at, "WITHDRAWN", event.account, event.token, event.amount)


def fees_withdrawn(state: State, event: events.FeesWithdrawn, at: int) -> None:
    _pay(state, event, at, "FEES_WITHDRAWN", event.to, event.token, event.amount)


def funds_locked(state: State, event: events.FundsLocked, at: int) -> None:
    escrow = state.get("escrows", event.job_id) or {
        "id": event.job_id,
        "token": event.token,
        "locked": 0,
        "released": 0,
        "fee": 0,
        "refunded": 0,
    }
    state.put("escrows", {**escrow, "locked": escrow["locked"] + event.amount})
    _pay(state, event, at, "LOCKED", event.payer, event.token, event.amount)


def funds_released(state: State, event: events.FundsReleased, at: int) -> None:
    escrow = state.need("escrows", event.job_id, event)
    state.put("escrows", {**escrow, "released": escrow["released"] + event.amount, "fee": escrow["fee"] + event.fee})
    _pay(state, event, at, "RELEASED", event.provider, escrow["token"], event.amount, event.fee)


def refunded(state: State, event: events.Refunded, at: int) -> None:
    escrow = state.need("escrows", event.job_id, event)
    state.put("escrows", {**escrow, "refunded": escrow["refunded"] + event.amount})
    _pay(state, event, at, "REFUNDED", event.user, escrow["token"], event.amount)


# ------------------------------------------------------------------------ stake


def staked(state: State, event: events.Staked, at: int) -> None:
    stake = _stake(state, event.account)
    state.put("stakes", {**stake, "active": stake["active"] + event.amount})
    _pay(state, event, at, "STAKED", event.payer, None, event.amount)


def unstake_requested(state: State, event: events.UnstakeRequested, at: int) -> None:
    stake = _stake(state, event.account)
    stake["active"] -= event.amount
    stake["pending"] += event.amount
    state.put("stakes", {**stake, "pending_until": event.available_at})


def stake_withdrawn(state: State, event: events.StakeWithdrawn, at: int) -> None:
    stake = _stake(state, event.account)
    state.put("stakes", {**stake, "pending": stake["pending"] - event.amount, "pending_until": None})
    _pay(state, event, at, "UNSTAKED", event.account, None, event.amount)


def slashed(state: State, event: events.Slashed, at: int) -> None:
    stake = _stake(state, event.account)
    taken = event.compensation + event.bounty + event.burned
    from_active = min(taken, stake["active"])
    stake["active"] -= from_active
    stake["pending"] -= taken - from_active
    stake["slashed"] += taken
    state.put("stakes", stake)
    _pay(state, event, at, "SLASHED", event.account, None, taken)
    if event.compensation and event.harmed != NO_ADDRESS:
        harmed = _stake(state, event.harmed)
        state.put("stakes", {**harmed, "compensation": harmed["compensation"] + event.compensation})


def compensation_withdrawn(state: State, event: events.CompensationWithdrawn, at: int) -> None:
    stake = _stake(state, event.account)
    state.put("stakes", {**stake, "compensation": stake["compensation"] - event.amount})
    _pay(state, event, at, "COMPENSATED", event.account, None, event.amount)


def _stake(state: State, account: str) -> Row:
    return state.get("stakes", account) or {
        "id": account,
        "active": 0,
        "pending": 0,
        "pending_until": None,
        "slashed": 0,
        "compensation": 0,
    }


def _pay(
    state: State, event: Any, at: int, kind: str, account: str, token: str | None, amount: int, fee: int = 0
) -> None:
    """A movement of tokens; `token` none is the stake token. The id sorts by place in the chain."""
    state.put(
        "payments",
        {
            "id": f"{event.block_number:012d}-{event.log_index:06d}",
            "kind": kind,
            "account": account,
            "contract": event.address,
            "token": token,
            "amount": amount,
            "fee": fee,
            "job_id": getattr(event, "job_id", None),
            "timestamp": at,
            "tx_hash": event.tx_hash,
            "block_number": event.block_number,
        },
    )
