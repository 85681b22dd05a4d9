"""Who may read a job's logs and metrics: its renter and its provider, by a signed, short-lived grant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.chain.deployments import Deployment
from gpumarket.chain.typed_data import access_grant, recover
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address, JobId

MAX_GRANT_S = 24 * 3600


@dataclass(frozen=True)
class Access:
    """A checked request: who asks, and the number of the last line they have."""

    account: Address
    after: int


def check_grant(frame: Any, *, deployment: Deployment, job_id: JobId, scope: str, now: int) -> Access:
    """Judge the first frame of a connection: who asks. Whether that account is one of the job's parties is not asked.

    Args:
        frame: `{"type": "auth", "grant": {"jobId", "account", "scope", "expiresAt"}, "signature", "after"}`.

    Raises:
        MarketError: `invalid_argument` for a malformed frame, `unauthorized` for a grant that is not valid here and
            now.
    """
    try:
        grant: Mapping[str, Any] = frame["grant"]
        account, expires_at = Address(str(grant["account"])), int(grant["expiresAt"])
        after = int(frame.get("after") or 0)
        signature = bytes.fromhex(str(frame["signature"]).removeprefix("0x"))
        if frame["type"] != "auth" or after < 0:
            raise ValueError
        if grant["jobId"] != job_id or grant["scope"] != scope:
            raise MarketError("unauthorized", "the grant is for another job or another stream")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MarketError("invalid_argument", "expected an auth frame with a grant and its signature") from None
    if not now < expires_at <= now + MAX_GRANT_S:
        raise MarketError("unauthorized", "the grant has expired, or lasts longer than a day")
    signed_by = recover(access_grant(deployment, job_id, account, scope, expires_at), signature)
    if signed_by.lower() != account.lower():
        raise MarketError("unauthorized", "the grant is not signed by its account")
    return Access(signed_by, after)
