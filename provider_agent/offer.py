"""Whether the machine takes an offer, judged from the chain and the job spec alone."""

from __future__ import annotations

from dataclasses import dataclass

from gpumarket.chain.types import Job, Resource
from gpumarket.errors import MarketError
from gpumarket.rules.job_spec import JobSpec, decode
from gpumarket.rules.units import ResourceId
from provider_agent.state import JobRow


@dataclass(frozen=True)
class Limits:
    """What the provider agrees to: the rental's length in seconds."""

    min_seconds: int
    max_seconds: int


def check_offer(job: Job, row: JobRow, resource: Resource, mine: ResourceId, limits: Limits) -> JobSpec:
    """The job's spec, if the machine takes it.

    A lower price than today's is no reason to refuse: the price was the resource's own when the job was opened.

    Raises:
        MarketError: `resource_unavailable`, `payment_token_mismatch`, `invalid_job_spec`, `invalid_argument` for a
            length outside the limits.
    """
    if job.resource_id != mine:
        raise MarketError("resource_unavailable", "the job is for a resource that this machine no longer is")
    if job.payment_token != resource.payment_token:
        raise MarketError(
            "payment_token_mismatch", f"the job pays in {job.payment_token}, not {resource.payment_token}"
        )
    if not limits.min_seconds <= job.duration <= limits.max_seconds:
        message = f"{job.duration} s is outside {limits.min_seconds}..{limits.max_seconds} s"
        raise MarketError("invalid_argument", message)
    return read_spec(row)


def read_spec(row: JobRow) -> JobSpec:
    """The spec as emitted on chain. Raises MarketError `invalid_job_spec`."""
    try:
        return decode(row.spec)
    except ValueError as error:
        raise MarketError("invalid_job_spec", str(error)) from error
