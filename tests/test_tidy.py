"""The rules of the house, as tests (ARCHITECTURE.md names them)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICES = ("provider_agent", "indexer", "oracle", "gateway")

# One library, one door: module -> the files or folders that may import it.
DOORS = {
    "web3": ("gpumarket/chain/",),
    "eth_account": ("gpumarket/chain/",),
    "eth_abi": ("gpumarket/chain/",),
    "eth_utils": ("gpumarket/chain/",),
    "ipfshttpclient": ("gpumarket/ipfs/kubo.py",),
    "docker": ("provider_agent/docker_runtime.py", "gpumarket/images/"),
    "pynvml": ("provider_agent/gpus.py",),
    "sqlalchemy": ("indexer/", "provider_agent/journal.py"),
    "strawberry": ("indexer/",),
    "ape": ("scripts/", "tests/contracts/"),
}


def tracked(*suffixes: str) -> list[Path]:
    """Files that git tracks or would track."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / n for n in names if n.endswith(suffixes) and (ROOT / n).is_file()]


def product() -> list[Path]:
    """Python files of the product: the shared kernel and the services."""
    return [p for p in tracked(".py") if p.relative_to(ROOT).parts[0] in ("gpumarket", *SERVICES)]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for found in ast.walk(ast.parse(path.read_text())):
        if isinstance(found, ast.Import):
            for alias in found.names:
                yield found.lineno, alias.name
        elif isinstance(found, ast.ImportFrom) and found.module and found.level == 0:
            yield found.lineno, found.module


def violations(check: object) -> list[str]:
    assert callable(check)
    return [
        f"{p.relative_to(ROOT)}:{line} imports {name}" for p in product() for line, name in imports(p) if check(p, name)
    ]


def top(name: str) -> str:
    return name.split(".")[0]


def test_services_never_import_each_other_and_the_kernel_imports_no_service() -> None:
    def crosses(path: Path, name: str) -> bool:
        home = path.relative_to(ROOT).parts[0]
        return top(name) in SERVICES and top(name) != home

    assert violations(crosses) == []


def test_rules_use_the_standard_library_only() -> None:
    def foreign(path: Path, name: str) -> bool:
        if "gpumarket/rules/" not in path.as_posix():
            return False
        return top(name) not in sys.stdlib_module_names and not name.startswith("gpumarket.rules")

    assert violations(foreign) == []


@pytest.mark.parametrize("library", sorted(DOORS))
def test_one_library_has_one_door(library: str) -> None:
    def outside(path: Path, name: str) -> bool:
        place = path.relative_to(ROOT).as_posix()
        return top(name) == library and not place.startswith(DOORS[library])

    assert violations(outside) == []


def test_only_config_reads_the_environment() -> None:
    readers = [
        p.relative_to(ROOT).as_posix()
        for p in product()
        if re.search(r"\bos\.(environ|getenv|putenv)\b", p.read_text())
        and p.relative_to(ROOT).as_posix() != "gpumarket/config.py"
    ]
    assert readers == []


def test_only_the_sender_touches_private_keys() -> None:
    needles = re.compile(
        r"from_key\(|\bAccount\.(create|decrypt|encrypt|from_mnemonic)\b|sign_transaction\(|\bprivate_key\b"
    )
    holders = [p.relative_to(ROOT).as_posix() for p in product() if needles.search(p.read_text())]
    assert holders == ["gpumarket/chain/sender.py"]


def test_only_app_builds_the_real_clients_of_a_service() -> None:
    builders = re.compile(r"\b(ChainClient\.connect|EmbeddedStore|DockerRuntime|KuboStore)\(")
    found = [
        p.relative_to(ROOT).as_posix()
        for p in product()
        if p.relative_to(ROOT).parts[0] in SERVICES and p.name != "app.py" and builders.search(p.read_text())
    ]
    assert found == []


def test_no_import_hides_inside_a_function() -> None:
    hidden = []
    for path in product():
        for outer in ast.walk(ast.parse(path.read_text())):
            if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
                hidden += [
                    f"{path.relative_to(ROOT)}:{inner.lineno}"
                    for inner in ast.walk(outer)
                    if isinstance(inner, (ast.Import, ast.ImportFrom))
                ]
    assert hidden == []


def test_contracts_import_only_openzeppelin_and_their_own() -> None:
    foreign = [
        f"{p.relative_to(ROOT)}: {name}"
        for p in tracked(".sol")
        if p.relative_to(ROOT).parts[0] == "contracts"
        for name in re.findall(r'^import .*?"([^"]+)";', p.read_text(), re.M)
        if not name.startswith((".", "@openzeppelin/"))
    ]
    assert foreign == []


def test_mocks_are_never_deployed() -> None:
    assert "mocks" not in (ROOT / "scripts/deploy.py").read_text()


def contract_events() -> set[str]:
    return {
        name
        for p in (ROOT / "contracts/interfaces").glob("*.sol")
        for name in re.findall(r"^\s*event (\w+)\(", p.read_text(), re.M)
    }


def test_every_event_has_a_dataclass_and_a_handler_and_a_row_in_the_docs() -> None:
    events = contract_events()
    generated = (ROOT / "gpumarket/chain/events.py").read_text()
    handlers = "".join(p.read_text() for p in (ROOT / "indexer").glob("handlers*.py"))
    docs = (ROOT / "docs/events.md").read_text()
    assert sorted(e for e in events if f"class {e}" not in generated) == []
    assert sorted(e for e in events if e not in handlers) == []
    assert sorted(e for e in events if f"`{e}`" not in docs) == []


def test_every_custom_error_is_named_in_a_test() -> None:
    errors = {
        name
        for p in (ROOT / "contracts/interfaces").glob("*.sol")
        for name in re.findall(r"^\s*error (\w+)\(", p.read_text(), re.M)
    }
    tests = "".join(p.read_text() for p in tracked(".sol", ".py") if p.relative_to(ROOT).parts[0] == "tests")
    assert sorted(e for e in errors if e not in tests) == []


def test_every_error_code_is_used_and_tested() -> None:
    from gpumarket.errors import ERROR_KINDS

    tests = "".join(p.read_text() for p in tracked(".py") if p.relative_to(ROOT).parts[0] == "tests")
    code = "".join(p.read_text() for p in product() if p.name != "errors.py")
    assert sorted(c for c in ERROR_KINDS if f'"{c}"' not in tests) == []
    assert sorted(c for c in ERROR_KINDS if c != "internal" and f'"{c}"' not in code) == []


def test_files_stay_one_room() -> None:
    big = {p.relative_to(ROOT).as_posix(): n for p in product() if (n := len(p.read_text().splitlines())) > 500}
    big.pop("gpumarket/chain/events.py", None)  # generated
    assert big == {}


def test_nothing_reads_like_unfinished_work() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in tracked(".py", ".sol", ".sh", ".js")
        if p != Path(__file__)
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_the_readme_starts_with_the_two_commands() -> None:
    commands = re.findall(r"^make \w+", (ROOT / "README.md").read_text(), re.M)
    assert commands[:2] == ["make demo", "make test"]


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE",
        "docs/glossary.md",
        "docs/invariants.md",
    ],
)
def test_the_papers_exist(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_links_between_papers_lead_somewhere() -> None:
    dead = []
    for paper in tracked(".md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", paper.read_text()):
            if not (paper.parent / target).exists():
                dead.append(f"{paper.relative_to(ROOT)}: {target}")
    assert dead == []


def test_no_path_of_a_machine_in_tracked_files() -> None:
    pattern = re.compile(r"/(root|home/\w+|work)/")
    found = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in tracked(".py", ".md", ".sh", ".toml", ".yaml", ".json", ".sol", ".js", "Makefile")
        if p != Path(__file__) and p.name not in ("package-lock.json",)
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_every_invariant_names_its_test() -> None:
    text = (ROOT / "docs/invariants.md").read_text()
    tests = "".join(p.read_text() for p in tracked(".sol", ".py") if p.relative_to(ROOT).parts[0] == "tests")
    for number in range(1, 11):
        row = next((line for line in text.splitlines() if re.match(rf"(\|\s*|#+ |)\**{number}\b", line)), None)
        assert row, f"invariant {number} is not listed"
    named = re.findall(r"`((?:test|invariant)_\w+)`", text)
    assert len(named) >= 10
    assert sorted(n for n in named if n not in tests) == []
