from __future__ import annotations

from dataclasses import replace

import pytest

from gpumarket.errors import MarketError
from provider_agent.runtime import SPEC_LABEL, ContainerSpec
from provider_agent.sandbox import HostFacts, settings, spec_digest, user_of, volumes

_SPEC = ContainerSpec("job", "image:1", command=("run",), env={"A": "b"}, labels={"x": "y"})
_FACTS = HostFacts(cpus=2, cdi=False, runtime="", init=True)


def test_default_behavior() -> None:
    made = settings(_SPEC, {}, _FACTS)

    assert made.host["privileged"] is False
    assert made.host["cap_drop"] == ["ALL"]
    assert "cap_add" not in made.host
    assert made.host["security_opt"] == ["no-new-privileges:true"]
    assert made.host["read_only"] is True
    assert made.host["network_mode"] == "none"
    assert made.host["mem_limit"] == made.host["memswap_limit"] == _SPEC.memory_bytes
    assert made.host["auto_remove"] is False
    assert made.host["device_requests"] is None
    assert "binds" not in made.host
    assert {mount["Type"] for mount in made.host["mounts"]} == {"volume"}
    assert made.container["user"] == "65534:65534"
    assert made.container["labels"] == {"x": "y", SPEC_LABEL: spec_digest(_SPEC)}
    assert made.container["environment"] == {"HOME": "/tmp", "A": "b", "NVIDIA_VISIBLE_DEVICES": "void"}


@pytest.mark.parametrize(
    ("image_user", "user"),
    [
        ("", "65534:65534"),
        ("0", "65534:65534"),
        ("root", "65534:65534"),
        ("app", "65534:65534"),
        ("0:0", "65534:65534"),
        ("00", "65534:65534"),
        ("1000:root", "65534:65534"),
        ("1000:0", "65534:65534"),
        ("-1", "65534:65534"),
        ("4294967296", "65534:65534"),
        ("1000", "1000:1000"),
        ("1000:1001", "1000:1001"),
    ],
)
def test_user_is_never_root(image_user: str, user: str) -> None:
    assert user_of({"User": image_user}) == user


def test_gpus_are_asked_for_by_uuid() -> None:
    spec = replace(_SPEC, gpus=("GPU-1", "GPU-2"))

    legacy = settings(spec, {}, _FACTS)
    cdi = settings(spec, {}, replace(_FACTS, cdi=True))

    assert legacy.host["device_requests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu", "compute", "utility"]]}
    ]
    assert cdi.host["device_requests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]}
    ]
    assert cdi.container["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_a_renter_cannot_name_gpus_by_environment() -> None:
    spec = replace(_SPEC, env={"NVIDIA_VISIBLE_DEVICES": "all"})

    assert settings(spec, {}, _FACTS).container["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_volumes_of_the_image_become_bounded_memory() -> None:
    made = settings(_SPEC, {"Volumes": {"/data": {}, "/results": {}, "/tmp/": {}}}, _FACTS)

    extra = [mount for mount in made.host["mounts"] if mount["Type"] != "volume"]
    assert [mount["Target"] for mount in extra] == ["/data"]
    assert extra[0]["Type"] == "tmpfs"
    assert extra[0]["TmpfsOptions"]["SizeBytes"] == _SPEC.memory_bytes


def test_too_many_volumes_are_refused() -> None:
    with pytest.raises(MarketError) as refused:
        settings(_SPEC, {"Volumes": {f"/{n}": {} for n in range(33)}}, _FACTS)

    assert refused.value.code == "image_policy_violation"


def test_network_is_refused() -> None:
    with pytest.raises(MarketError) as refused:
        settings(replace(_SPEC, network=True), {}, _FACTS)

    assert refused.value.code == "machine_unsuitable"


def test_limits_stay_within_the_machine() -> None:
    made = settings(replace(_SPEC, cpus=64.0, shm_bytes=1 << 40), {}, _FACTS)

    assert made.host["nano_cpus"] == 2_000_000_000
    assert made.host["shm_size"] == _SPEC.memory_bytes


def test_workspace_only_if_bought() -> None:
    assert volumes(_SPEC) == {"/results": _SPEC.results_bytes}
    assert volumes(replace(_SPEC, disk_bytes=7)) == {"/results": _SPEC.results_bytes, "/workspace": 7}


def test_entrypoint_is_kept_unless_given() -> None:
    assert "entrypoint" not in settings(_SPEC, {}, _FACTS).container
    assert settings(replace(_SPEC, entrypoint=()), {}, _FACTS).container["entrypoint"] == []


def test_every_field_changes_the_digest() -> None:
    assert spec_digest(_SPEC) == spec_digest(replace(_SPEC))
    assert spec_digest(_SPEC) != spec_digest(replace(_SPEC, env={"A": "c"}))
    assert spec_digest(_SPEC) != spec_digest(replace(_SPEC, results_bytes=1))
