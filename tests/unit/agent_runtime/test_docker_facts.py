from __future__ import annotations

from typing import Any

import pytest

from provider_agent.docker_facts import container_of, engine_info, host_facts, limits_missing, unix_time
from provider_agent.runtime import ContainerState, DiskLimit, Tier

_VERSION = {"Version": "27.1", "ApiVersion": "1.46", "Components": [{"Name": "runc", "Version": "1.2.9"}]}
_INFO: dict[str, Any] = {
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "Runtimes": {"runc": {}},
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "NCPU": 4,
    "InitBinary": "docker-init",
}


def test_default_behavior() -> None:
    info = engine_info(_VERSION, _INFO, DiskLimit.LOOP)

    assert (info.version, info.runc, info.tier, info.rootless, info.cdi) == ("27.1", "1.2.9", Tier.T0, False, False)
    assert info.limits_missing == ()


@pytest.mark.parametrize(
    ("change", "tier"),
    [
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, Tier.T1),
        ({"SecurityOptions": ["name=userns"]}, Tier.T1),
        ({"Runtimes": {"runc": {}, "runsc": {}}}, Tier.T2),
        ({"Runtimes": {"runc": {}, "runsc": {}, "nvidia": {}}}, Tier.T0),
        ({"Runtimes": {"runc": {}, "runsc": {"runtimeArgs": ["--nvproxy"]}, "nvidia": {}}}, Tier.T2),
    ],
)
def test_tier_is_what_jobs_get(change: dict[str, Any], tier: Tier) -> None:
    info = {**_INFO, **change}

    assert engine_info(_VERSION, info, DiskLimit.LOOP).tier is tier
    assert (host_facts(info).runtime == "runsc") is (tier is Tier.T2)


def test_a_default_runtime_that_lets_images_choose_gpus_is_not_used() -> None:
    assert host_facts({**_INFO, "DefaultRuntime": "nvidia"}).runtime == "runc"
    assert host_facts({**_INFO, "DefaultRuntime": "runc"}).runtime == ""


def test_cdi_only_where_the_engine_lists_the_gpus() -> None:
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1"}]

    assert host_facts({**_INFO, "DiscoveredDevices": devices}).cdi
    assert not host_facts({**_INFO, "CDISpecDirs": ["/etc/cdi"]}).cdi


def test_limits_that_cannot_be_set_are_named() -> None:
    assert limits_missing({"MemoryLimit": True, "PidsLimit": False}) == ("PidsLimit", "CpuCfsQuota")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.500000000Z", 1.5),
        ("1970-01-01T01:00:01.5+01:00", 1.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert unix_time(text) == seconds


def test_an_exit_code_only_after_the_end() -> None:
    state = {
        "Status": "running",
        "ExitCode": 0,
        "StartedAt": "1970-01-01T00:00:01Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    seen = {"Id": "1", "Name": "/job", "State": state, "Config": {"Image": "i", "Labels": None}}

    running = container_of(seen, lambda name: "disk limit")
    ended = container_of(
        {**seen, "State": {**state, "Status": "exited", "ExitCode": 3}}, {"job": "disk limit"}.__getitem__
    )

    assert (running.name, running.state, running.exit_code, running.running) == (
        "job",
        ContainerState.RUNNING,
        None,
        True,
    )
    assert (ended.exit_code, ended.ended, ended.stop_reason) == (3, True, "disk limit")
