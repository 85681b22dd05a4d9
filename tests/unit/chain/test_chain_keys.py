from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from eth_account import Account

from gpumarket.chain import typed_data
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import CONTRACTS, Deployment, PaymentToken
from gpumarket.chain.rpc import Rpc
from gpumarket.chain.sender import Sender, create_keystore, load_account
from gpumarket.errors import MarketError
from gpumarket.rules.units import NO_ADDRESS
from tests.parts.anvil import ANVIL_KEYS

KEY = "0x" + "5a" * 32


def deployment(chain_id: int) -> Deployment:
    return Deployment(chain_id, {name: NO_ADDRESS for name in CONTRACTS}, 0, PaymentToken(NO_ADDRESS, "GPU", 18))


def test_default_behavior(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "mine.json"
    address = create_keystore(path, "correct horse")
    signer = load_account(path, {"GPUMARKET_PASSPHRASE": "correct horse"})
    assert signer.address == address
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(MarketError, match="passphrase is wrong") as wrong:
        load_account(path, {"GPUMARKET_PASSPHRASE": "battery staple"})
    assert wrong.value.code == "invalid_config"


def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("precious")
    with pytest.raises(MarketError) as exists:
        create_keystore(path, "correct horse")
    assert exists.value.code == "invalid_config"
    assert path.read_text() == "precious"


def test_a_keystore_needs_a_passphrase(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as empty:
        create_keystore(tmp_path / "mine.json", "")
    assert empty.value.code == "invalid_argument"


def test_a_passphrase_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(Account.encrypt(KEY, "correct horse", kdf="pbkdf2", iterations=10)))
    (tmp_path / "passphrase").write_text("correct horse\n")
    signer = load_account(tmp_path / "mine.json", {"GPUMARKET_PASSPHRASE_FILE": str(tmp_path / "passphrase")})
    assert signer.address == Account.from_key(KEY).address


@pytest.mark.parametrize("environ", [{}, {"GPUMARKET_PRIVATE_KEY": "0x12"}, {"GPUMARKET_PRIVATE_KEY": ""}])
def test_no_key_or_a_malformed_one_is_refused_without_showing_it(environ: dict[str, str]) -> None:
    with pytest.raises(MarketError) as refused:
        load_account(None, environ)
    assert refused.value.code == "invalid_config"
    assert "0x12" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 4}', "[]"])
def test_a_file_that_is_no_keystore_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(MarketError) as refused:
        load_account(tmp_path / "mine.json", {"GPUMARKET_PASSPHRASE": "x"})
    assert refused.value.code == "invalid_config"


def test_a_locked_or_missing_keystore_is_refused(tmp_path: Path) -> None:
    for environ in ({}, {"GPUMARKET_PASSPHRASE": "x"}):
        with pytest.raises(MarketError) as refused:
            load_account(tmp_path / "none.json", environ)
        assert refused.value.code == "invalid_config"


@pytest.mark.parametrize("key", [*ANVIL_KEYS, "0x" + "00" * 31 + "01"])
def test_development_keys_work_on_development_chains_only(tmp_path: Path, key: str) -> None:
    signer = load_account(None, {"GPUMARKET_PRIVATE_KEY": key})
    for chain_id in (31337, 1337):
        assert signer.sign_typed(typed_data.receipt(deployment(chain_id), "0x" + "11" * 32, bytes(32), 1))
    for chain_id in (1, 10, 8453):
        with pytest.raises(MarketError) as refused:
            signer.sign_typed(typed_data.receipt(deployment(chain_id), "0x" + "11" * 32, bytes(32), 1))
        assert refused.value.code == "development_key_refused"
        with pytest.raises(MarketError) as refused:
            Sender(ChainClient(Rpc("http://127.0.0.1:9"), deployment(chain_id)), signer, tmp_path / "sender.db")
        assert refused.value.code == "development_key_refused"


def test_ones_own_key_works_everywhere_and_is_never_shown() -> None:
    signer = load_account(None, {"GPUMARKET_PRIVATE_KEY": KEY})
    assert len(signer.sign_typed(typed_data.receipt(deployment(1), "0x" + "11" * 32, bytes(32), 1))) == 65
    assert repr(signer) == f"Signer({signer.address})"
