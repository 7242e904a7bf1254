"""The folder of secrets that compose mounts."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from infra.containers import make_secrets


def test_a_second_run_changes_nothing(secrets_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in secrets_folder.iterdir()}
    assert make_secrets.main(["--folder", str(secrets_folder), "--self-signed", "kasbah.test"]) == 0
    assert {path.name: path.read_bytes() for path in secrets_folder.iterdir()} == before


def test_only_the_containers_can_read_them(secrets_folder: Path) -> None:
    assert stat.S_IMODE(secrets_folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets_folder.iterdir()} == {0o444}


def test_no_two_are_equal_and_keys_are_keys(secrets_folder: Path) -> None:
    texts = [path.read_text() for path in secrets_folder.iterdir() if path.name != "site_main_enrol_token"]
    assert len(set(texts)) == len(texts)
    assert all(len(base64.b64decode((secrets_folder / name).read_text())) == 32 for name in ("kek", "audit_key"))


def test_brokers_keep_no_password(secrets_folder: Path) -> None:
    for acl, url in {"valkey_acl": "redis_url", "site_main_broker_acl": "site_main_worker_broker_url"}.items():
        password = (secrets_folder / url).read_text().split("@")[0].rsplit(":", 1)[1]
        assert len(password) >= 40
        assert password not in (secrets_folder / acl).read_text()


def test_a_token_that_was_put_there_is_kept(tmp_path: Path) -> None:
    make_secrets.make(tmp_path)
    token = tmp_path / "site_main_enrol_token"
    token.chmod(0o600)
    token.write_text("kse_x")
    make_secrets.make(tmp_path)
    assert token.read_text() == "kse_x"


def test_the_organisations_certificate_is_taken(tmp_path: Path, secrets_folder: Path) -> None:
    arguments = ["--certificate", str(secrets_folder / "tls_certificate"), "--key", str(secrets_folder / "tls_key")]
    assert make_secrets.main(["--folder", str(tmp_path), *arguments]) == 0
    assert (tmp_path / "tls_key").read_text() == (secrets_folder / "tls_key").read_text()


def test_a_wrong_certificate_is_named(tmp_path: Path, secrets_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = ["--certificate", str(secrets_folder / "tls_key"), "--key", str(secrets_folder / "tls_certificate")]
    assert make_secrets.main(["--folder", str(tmp_path), *swapped]) == 1
    assert "tls_certificate" in capsys.readouterr().err
    assert make_secrets.main(["--folder", str(tmp_path), "--certificate", "absent", "--key", "absent"]) == 1
    with pytest.raises(SystemExit):
        make_secrets.main(["--folder", str(tmp_path), "--key", "absent"])
