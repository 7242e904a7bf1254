"""Which broker and store a worker takes, and how their certificates are checked."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from kombu import Connection

from inference_worker.__main__ import parser, settings
from inference_worker.contract import tls
from inference_worker.tasks.carrier import make_app

REDIS, RABBITMQ = "redis://:hunter2@10.0.0.1/0", "amqp://u:hunter2@10.0.0.1//"


def given(folder: Path, *arguments: str) -> list[str]:
    """A command line that is complete but for the addresses."""
    program = folder / "python"
    program.touch(0o700)
    fixed = ["--site", "paris", "--state-dir", str(folder), "--models", str(folder), "--engine-python", str(program)]
    return [*fixed, *arguments]


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KASBAH_BROKER_URL", "KASBAH_STORE_URL", "KASBAH_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("broker", "store", "used"),
    [(REDIS, "", REDIS), (REDIS, "redis://b/0", "redis://b/0"), (RABBITMQ, "rediss://b/0", "rediss://b/0")],
)
def test_the_broker_is_the_store_unless_another_is_given(tmp_path: Path, broker: str, store: str, used: str) -> None:
    found = settings(parser().parse_args(given(tmp_path, "--broker", broker, "--store", store)))
    assert (found.broker, found.store) == (broker, used)


def test_the_store_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASBAH_BROKER_URL", RABBITMQ)
    monkeypatch.setenv("KASBAH_STORE_URL", REDIS)
    found = settings(parser().parse_args(given(tmp_path)))
    assert (found.broker, found.store) == (RABBITMQ, REDIS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "KASBAH_BROKER_URL"),
        (("--broker", "http://:hunter2@x"), "KASBAH_BROKER_URL"),
        (("--broker", RABBITMQ), "KASBAH_STORE_URL"),
        (("--broker", RABBITMQ, "--store", RABBITMQ), "KASBAH_STORE_URL"),
        (("--broker", REDIS, "--store", "hunter2"), "KASBAH_STORE_URL"),
        (("--broker", RABBITMQ, "--store", REDIS, "--carrier", "batched"), "--carrier"),
    ],
)
def test_wrong_addresses_name_the_setting_and_no_password(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        settings(parser().parse_args(given(tmp_path, *arguments)))
    assert "hunter2" not in str(raised.value)


def test_certificates_and_their_names_are_checked() -> None:
    rediss = make_app("rediss://:p@10.0.0.1/0").connection_for_read()
    assert rediss.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    rabbitmq = make_app("amqps://u:p@10.0.0.1//").connection_for_read()
    assert (rabbitmq.ssl["cert_reqs"], "server_hostname" in rabbitmq.ssl) == (ssl.CERT_REQUIRED, True)
    assert tls.options(REDIS) is None
    assert tls.options("rediss://h/0?ssl_ca_certs=/x") is None  # kombu takes what the address says
    # The control: left to itself, kombu asks for no certificate.
    assert Connection("rediss://:p@10.0.0.1/0").ssl == {"ssl_cert_reqs": ssl.CERT_NONE}
