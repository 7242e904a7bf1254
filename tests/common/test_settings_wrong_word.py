"""A setting with a wrong word stops the start with one sentence that names it, and repeats no secret."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from inference_worker.__main__ import parser
from inference_worker.__main__ import settings as worker_settings
from inference_worker.contract.settings import SettingError
from kasbah.audit.services import receipts
from kasbah.common import env, sealed
from kasbah.config import egress, preflight
from kasbah.identity.services import keys
from tests.common.test_start import command

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/operator/settings.md").read_text(encoding="utf-8")
HIDDEN = "hunter2"
# Words that are wrong for each setting. Those with a secret hold HIDDEN, which no message may repeat.
NUMBERS = ("many", "", "-1", "1e9", "0x10", "\u0661\u0662", "9" * 5000, "nan")
DATABASES = (
    f"postgresql://app:pa#{HIDDEN}@db/kasbah", f"postgresql://app:{HIDDEN}/x@db/kasbah", f"mysql://app:{HIDDEN}@db/x",
    f"postgresql://app:{HIDDEN}%zz@db/kasbah", f"postgresql://app:{HIDDEN}@db:port/kasbah", HIDDEN,
    f"postgresql://app:{HIDDEN}@db/kasbah?{HIDDEN}", f"postgresql://app:{HIDDEN}\u2100@db/kasbah",
)  # fmt: skip
STORES = (
    f"redis://:pa#{HIDDEN}@h:6379/0", f"http://:{HIDDEN}@h", HIDDEN, f"redis://:{HIDDEN}@h:x/0", f"redis://[{HIDDEN}",
    f"redis://u:{HIDDEN}@x@h:6379/0",
)  # fmt: skip
KEYS = (HIDDEN, "", f"{HIDDEN}\u00e9", "aHVudGVyMg==")
WRONG: dict[str, tuple[str, ...]] = {
    "DATABASE_URL": DATABASES,
    "OWNER_DATABASE_URL": DATABASES,
    "APP_ROLE": ("", 'kasbah"; DROP', "1st"),
    "DATABASE_POOL": NUMBERS,
    "GATEWAY_POOL": NUMBERS,
    "REDIS_URL": (*STORES, f"redis://:{HIDDEN}@h/0?socket_timeout={HIDDEN}"),
    "BIND": ("8080", "host:", "host:x", ":80", "h:99999", "http://h:80", "::1:80"),
    "ALLOWED_HOSTS": ("https://kasbah.example.org", "a b"),
    "TRUSTED_ORIGINS": ("kasbah.example.org", "ftp://x"),
    "TRUSTED_PROXIES": ("proxy.example.org", "10.0.0.300"),
    "TLS": ("yes", "true", "on"),
    "INSTALLATION": ("", "two words", "a+b"),
    "MODELS_DIR": (__file__,),
    "AUDIT_DIR": (__file__,),
    "WITNESSES": ("nonsense", "a+b+c http://x", "witness+1 http://[x"),
    "SYSLOG_PEN": NUMBERS,
    "IMPORT_DIR": (__file__,),
    "POLICY_REQUEST_DAYS": NUMBERS,
    "REVIEW_WAIT_HOURS": NUMBERS,
    "CLASSIFIER": ("nowhere", "nowhere.at.all", "json.absent", "json.__doc__", "..", ":"),
    "LOG_LEVEL": ("loud", "info", "10"),
    "EGRESS_ALLOW": ("id.example", "id.example:x", "http://[x"),
    "SECRET_KEY": ("\ufefflong-enough", "long\renough"),
    "KEK": KEYS,
    "API_KEY_PEPPER": (HIDDEN, f"p1:{HIDDEN}", ":aGk=", f"p1:{HIDDEN}\u00e9"),
    "AUDIT_KEY": KEYS,
    "AUDIT_KEY_PREVIOUS": tuple(filter(None, KEYS)),
    "CARRIER": ("pigeon", ""),
    "LEASE_MS": NUMBERS,
    "LOOK_MS": NUMBERS,
    "QUEUE_WAIT_S": NUMBERS,
    "STORE_PATIENCE_S": NUMBERS,
    "STREAM_HOLD": NUMBERS,
    "DEFAULT_OUTPUT_TOKENS": NUMBERS,
    "DEMO_BROKER_URL": STORES,
    "DEMO_MODEL": ("smollm", "../x"),
    "DEMO_NEW_KEY": ("yes",),
}
WORKERS = {"BROKER_URL": STORES, "STORE_URL": STORES, "ENROL_TOKEN": ("\ufeffkse_x", "kse_\rx")}
ELSEWHERE = {"HOME", "SECRETS_DIR"}  # any path; what is wrong with a folder is said where it is used


def short(value: str) -> str:
    """A test's name does not repeat a word of 5,000 digits."""
    return repr(value)[:24]


def start() -> None:
    """What a process of the control plane reads before it serves, in this process."""
    loaded = runpy.run_path(str(ROOT / "platform/kasbah/config/settings.py"))
    for name in ("WITNESSES", "MODELS_DIR", "AUDIT_DIR", "IMPORT_DIR", "REDIS_URL"):
        setattr(django_settings, name, loaded[name])
    loaded["database_url"]("OWNER_DATABASE_URL")  # what `migrate` reads
    egress.own_endpoints()
    for cached in (sealed.kek, keys.pepper, receipts.ring):
        cached.cache_clear()
    try:
        preflight.check_settings()
    finally:
        for cached in (sealed.kek, keys.pepper, receipts.ring):
            cached.cache_clear()


def test_every_documented_setting_stands_here() -> None:
    documented = set(re.findall(r"^\| `KASBAH_([A-Z_]+)`", PAGE, re.MULTILINE))
    assert documented == set(WRONG) | set(WORKERS) | ELSEWHERE


def test_the_settings_of_the_tests_are_right(settings: Any) -> None:
    start()


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in WRONG.items() for word in words], ids=short)
def test_a_wrong_word_is_refused_by_the_name_of_its_setting(
    name: str, word: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setenv(f"KASBAH_{name}", word)
    with pytest.raises(SettingError) as refused:
        start()
    said = str(refused.value)
    assert f"KASBAH_{name}" in said
    assert HIDDEN not in said
    assert len(said) < 500
    assert refused.value.__cause__ is None or HIDDEN not in str(refused.value.__cause__)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_control_finds_the_password_in_the_message_of_a_parser_that_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """With the check of addresses switched off, the same start quotes the password."""
    monkeypatch.setattr(env.settings, "check_address", lambda url, schemes, source: url)
    monkeypatch.setenv("KASBAH_DATABASE_URL", f"postgresql://app:{HIDDEN}/x@db/kasbah")
    with pytest.raises(ValueError, match=HIDDEN):
        runpy.run_path(str(ROOT / "platform/kasbah/config/settings.py"))["database"](os.environ["KASBAH_DATABASE_URL"])


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, words in WORKERS.items() for word in words], ids=short
)
def test_a_worker_refuses_it_too(name: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KASBAH_BROKER_URL", "redis://h/0")
    monkeypatch.setenv(f"KASBAH_{name}", word)
    given = ["--site", "s", "--state-dir", str(tmp_path), "--models", str(tmp_path), "--engine-python", sys.executable]
    arguments = parser().parse_args(given)
    with pytest.raises(ValueError, match=f"KASBAH_{name}") as refused:
        worker_settings(arguments)
    assert HIDDEN not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["serve", "web", "worker", "beat"])
@pytest.mark.parametrize(("name", "word"), [("DATABASE_POOL", "many"), ("STREAM_HOLD", "long"), ("TLS", "yes")])
def test_each_process_says_it_and_ends_with_2(process: str, name: str, word: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        command(process, tmp_path), env=os.environ | {f"KASBAH_{name}": word}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert f"KASBAH_{name} is '{word}'; it must be" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert process in ("worker", "beat") or ended.stderr.count("\n") == 1  # Celery says first that it begins


def test_a_worker_process_says_it_in_a_line_and_ends_with_2(tmp_path: Path) -> None:
    given = ["--site", "s", "--state-dir", str(tmp_path), "--models", str(tmp_path), "--engine-python", sys.executable]
    for name, word in {"LEASE_MS": "soon", "BROKER_URL": f"redis://:pa#{HIDDEN}@h/0", "EGRESS_ALLOW": "x"}.items():
        ended = subprocess.run(
            [sys.executable, "-m", "inference_worker", *given],
            env=os.environ | {"KASBAH_BROKER_URL": "redis://h/0", f"KASBAH_{name}": word},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert f"KASBAH_{name}" in ended.stderr
        assert HIDDEN not in ended.stderr


@pytest.mark.parametrize(
    "flags",
    [["--drain", "nan"], ["--drain", "-1"], ["--engine-memory", "inf"], ["--engine-log", "0"], ["--engine-log", "x"],
     ["--hung", "1e400"], ["--probe", "9" * 5000]],
)  # fmt: skip
def test_a_workers_flag_that_is_no_sound_number_is_wrong_usage(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--site", "s", "--state-dir", "x", "--models", "x", "--engine-python", "x"]
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*given, *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"ENGINE": "steam"}, "ENGINE is 'steam'"),
        ({"KASBAH_BIND": "8080"}, "KASBAH_BIND"),
        ({"KASBAH_BIND": "h:x"}, "h:x"),
    ],
)
def test_the_demo_says_it_before_it_makes_anything(extra: dict[str, str], says: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "infra.local", "demo"], env=os.environ | {"KASBAH_HOME": str(tmp_path / "x")} | extra,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "x").exists()
