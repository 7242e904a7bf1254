"""docker-compose.yml, checked without a container engine; each check is shown to see what it is for."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from django.core.management import get_commands, load_command_class

from inference_worker import __main__ as worker_main
from kasbah.gateway.exchange import MAX_BODY
from tests.infra import code, stack
from tests.infra.stack import Compose

BIN = Path(sys.executable).parent
CODE = ("platform/kasbah", "inference_worker")


@pytest.fixture
def compose() -> Compose:
    """A fresh copy, to be broken at will."""
    return stack.load()


def test_it_is_valid_by_the_compose_specification() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout


def test_the_specification_is_really_asked(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yml"
    broken.write_text((stack.ROOT / "docker-compose.yml").read_text().replace("read_only: true", "read_only: [1]", 1))
    assert run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(broken)).returncode == 1


def test_a_linter_of_others_finds_only_what_is_known() -> None:
    done = run("compose-lint", "--format", "json", "docker-compose.yml", PUBLIC_HOST="kasbah.test")
    found = json.loads(done.stdout)
    items = found if isinstance(found, list) else found["findings"]
    rules = {(item["rule_id"], item["service"]) for item in items if item["rule_id"] != "CL-0019"}
    # CL-0019 wants digests, which cannot be looked up without a network; CL-0005 is the proxy's open door.
    assert rules == {("CL-0005", "proxy"), ("CL-0022", "worker-main")}


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of the environment's programs, in the repository."""
    return subprocess.run(
        [BIN / program, *arguments],
        cwd=stack.ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


Check = Callable[[Compose], Iterator[str]]
Breakage = Callable[[Compose], object]


def service(name: str, **changes: Any) -> Breakage:
    """Set keys of one service."""
    return lambda compose: compose["services"][name].update(changes)


BREAKAGES: list[tuple[Check, Breakage, str]] = [
    (stack.hardening, service("valkey", privileged=True), "valkey is privileged"),
    (stack.hardening, service("valkey", network_mode="host"), "valkey shares a namespace"),
    (stack.hardening, service("beat", cap_drop=[]), "beat keeps capabilities"),
    (stack.hardening, service("beat", cap_add=["SYS_ADMIN"]), "beat adds capabilities"),
    (stack.hardening, service("keycloak", security_opt=[]), "keycloak may gain privileges"),
    (stack.hardening, service("keycloak", read_only=False), "keycloak has a writable file system"),
    (stack.hardening, service("postgres", user="0:0"), "postgres runs as root"),
    (stack.hardening, lambda compose: compose["services"]["postgres"].pop("user"), "postgres runs as root"),
    (stack.hardening, service("control-plane", ports=["8080:8080"]), "control-plane publishes a port"),
    (stack.hardening, service("valkey", image="valkey/valkey:latest"), "valkey has an image without"),
    (stack.hardening, service("valkey", image="valkey/valkey"), "valkey has an image without"),
    (stack.hardening, service("housekeeping", healthcheck={}), "housekeeping has no health check"),
    (stack.hardening, service("housekeeping", deploy={}), "housekeeping has no limit for memory"),
    (stack.hardening, service("housekeeping", logging={}), "housekeeping has no bound for its log"),
    (stack.hardening, service("valkey", volumes=["./infra/valkey:/x"]), "valkey may write to"),
    (stack.hardening, service("valkey", volumes=["./infra/absent:/x:ro"]), "valkey mounts ./infra/absent"),
    (stack.hardening, service("beat", tmpfs=["/tmp"]), "beat may hold programs"),  # noqa: S108
    (stack.environment, service("beat", environment={"KASBAH_SECRET_KEY": "x"}), "beat has KASBAH_SECRET_KEY"),
    (stack.environment, service("beat", environment={"KASBAH_DATABASE_URL": "x"}), "beat has KASBAH_DATABASE_URL"),
    (stack.separation, service("worker-main", networks=["site-main", "control"]), "worker-main must be on"),
    (stack.separation, service("worker-main", networks=["site-main-uplink"]), "worker-main must be on"),
    (stack.separation, service("valkey", networks=["control", "site-main"]), "worker-main can reach ['valkey']"),
    (stack.separation, service("broker-main", networks=["site-main", "control"]), "broker-main must join"),
    (stack.separation, service("postgres", networks=["control", "front"]), "postgres is on more"),
    (stack.separation, service("beat", networks=["control", "front"]), "beat joins the proxy's network"),
    (stack.separation, service("keycloak", networks=["edge"]), "on the network edge must be the proxy alone"),
    (stack.separation, lambda compose: compose["services"]["beat"].pop("networks"), "beat is on the default network"),
    (stack.separation, lambda compose: compose["networks"].update({"site-main": {}}), "network site-main leads out"),
    (
        stack.separation,
        service("worker-main", secrets=["database_url"]),
        "worker-main has secrets beyond its broker's address",
    ),
]


@pytest.mark.parametrize("check", [stack.hardening, stack.environment, stack.separation], ids=lambda f: f.__name__)
def test_it_holds_as_it_stands(compose: Compose, check: Check) -> None:
    assert list(check(compose)) == []


@pytest.mark.parametrize(("check", "breakage", "expected"), BREAKAGES, ids=[entry[2][:50] for entry in BREAKAGES])
def test_a_breakage_is_seen(compose: Compose, check: Check, breakage: Breakage, expected: str) -> None:
    breakage(compose)
    assert any(problem.startswith(expected) for problem in check(compose)), list(check(compose))


def test_every_secret_is_made_used_and_read(compose: Compose, secrets_folder: Path) -> None:
    made = {path.name for path in secrets_folder.iterdir()}
    read = {name.lower() for name in code.settings_read(*CODE)}
    assert list(stack.secret_files(compose, made, read)) == []

    broken = copy.deepcopy(compose)
    broken["services"]["control-plane"]["secrets"] = ["owner_database_url", "tls_key", "not_declared"]
    broken["secrets"]["never_used"] = {"file": "./secrets/never_used"}
    problems = "\n".join(stack.secret_files(broken, made, read))
    for words in ("owner's", "tables' owner", "certificate's key", "never_used is declared", "not_declared is used"):
        assert words.replace("owner's", "owner") in problems
    assert "made by nobody" in problems


def test_a_server_gets_every_secret_that_has_no_default(compose: Compose) -> None:
    settings = code.settings_read("platform/kasbah")
    required = {name.lower() for name, defaults in settings.items() if "" in defaults or name.endswith("DATABASE_URL")}
    for name in ("control-plane", "housekeeping", "beat", "manage"):
        assert required - {"owner_database_url"} <= stack.secrets_of(compose["services"][name]).keys(), name


def test_every_variable_exists_in_the_code(compose: Compose) -> None:
    known = code.variables_read(*CODE)
    given = {name for service in compose["services"].values() for name in service.get("environment", {})}
    given |= {name for text in stack.image_files().values() for name in code.VARIABLE.findall(text)}
    ours = {name for name in given if name.startswith("KASBAH_")}
    assert len(ours) >= 6
    assert ours <= known


def test_third_parties_read_the_secrets_they_are_given(compose: Compose) -> None:
    places = {
        "postgres": ["infra/postgres/init/10-roles.sql", "docker-compose.yml"],
        "keycloak": ["infra/keycloak/start.sh"],
        "proxy": ["infra/proxy/Caddyfile"],
        "valkey": ["infra/valkey/control.conf"],
        "broker-main": ["infra/valkey/site.conf"],
    }
    for name, files in places.items():
        text = "\n".join((stack.ROOT / file).read_text() for file in files).replace("secrets: [", "")
        for secret in stack.secrets_of(compose["services"][name]):
            assert re.search(rf"(secrets\}}?\"?/|secret ){secret}\b|SECRETS_DIR[^/]*/{secret}\b", text), (name, secret)


def commands(compose: Compose) -> Iterator[tuple[str, list[str]]]:
    """Each program of ours that compose starts, health checks included."""
    for name, service in compose["services"].items():
        if service["image"].startswith("kasbah/") and name != "keycloak":
            yield name, [*service.get("entrypoint", []), *service["command"]]
            test = service.get("healthcheck", {}).get("test", ["CMD-SHELL"])
            if test[0] == "CMD":
                yield f"{name}'s health check", test[1:]


def check_command(words: list[str]) -> None:
    """Raise unless this command line is one that the code understands."""
    match words:
        case ["python", "manage.py", command, *flags]:
            parse_management(command, flags)
        case ["python", "-m", "inference_worker", *flags]:
            worker_main.parser().parse_args(flags)
        case ["python", "health.py", kind, _]:
            assert kind in {"http", "worker"}
        case ["celery", "--app", app, *rest]:
            parse_celery(app, rest)
        case _:
            raise AssertionError(f"nothing is known of {words}")


def parse_management(command: str, flags: list[str]) -> None:
    """As manage.py would."""
    loaded = load_command_class(get_commands()[command], command)
    loaded.create_parser("manage.py", command).parse_args(flags)


def parse_celery(app: str, words: list[str]) -> None:
    """As Celery's command line would, without running anything."""
    from celery.bin.celery import celery

    __import__(app)
    assert sys.modules[app].app.main == "kasbah"
    name, *flags = words
    command = celery.commands[name]
    # Its options only: their callbacks would want a running application.
    parser = command.make_parser(click.Context(command))
    _, rest, _ = parser.parse_args(list(flags))
    assert not rest or (name == "inspect" and rest == ["ping"]), rest


def test_every_command_is_understood(compose: Compose) -> None:
    seen = {name: check_command(words) for name, words in commands(compose)}
    assert len(seen) >= 9


@pytest.mark.parametrize(
    "words",
    [
        ["python", "manage.py", "no_such_command"],
        ["python", "manage.py", "serve", "--no-such-flag"],
        ["python", "-m", "inference_worker", "--site", "main"],
        ["python", "-m", "inference_worker", "--no-such-flag"],
        ["celery", "--app", "kasbah.config.celery", "worker", "--no-such-flag"],
        ["celery", "--app", "kasbah.no_such_module", "worker"],
        ["python", "health.py", "nothing", "x"],
        ["gunicorn"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_seen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((Exception, SystemExit)):
        check_command(words)


@pytest.mark.django_db(transaction=True)
async def test_the_health_path_answers(compose: Compose, valkey_server: object) -> None:
    import httpx

    from kasbah.gateway.app import PREFIXES, create_app

    url = httpx.URL(compose["services"]["control-plane"]["healthcheck"]["test"][-1])
    assert url.path.startswith(PREFIXES)
    gateway = create_app()
    await gateway.runtime.open()
    try:
        from kasbah.gateway.health import Readiness

        gateway._readiness = Readiness(gateway.runtime)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://127.0.0.1") as client:
            assert (await client.get(url.path)).status_code == 200
            assert (await client.get("/no-such-health")).status_code == 404
    finally:
        await gateway.runtime.close()


def test_ports_and_names_agree(compose: Compose, secrets_folder: Path) -> None:
    services = compose["services"]
    caddyfile = (stack.ROOT / "infra/proxy/Caddyfile").read_text()
    bind = services["control-plane"]["environment"]["KASBAH_BIND"]
    port = bind.rpartition(":")[2]
    assert f"{{$UPSTREAM:control-plane:{port}}}" in caddyfile
    assert f"127.0.0.1:{port}/" in services["control-plane"]["healthcheck"]["test"][-1]
    assert f"EXPOSE {port}" in stack.image_files()["control-plane.Dockerfile"]
    assert "{$IDENTITY_UPSTREAM:keycloak:8080}" in caddyfile
    inner = {mapping.rpartition(":")[2] for mapping in services["proxy"]["ports"]}
    assert inner == set(re.findall(r"\{\$HTTPS?_PORT:(\d+)\}", caddyfile))
    assert "--host" in services["postgres"]["healthcheck"]["test"]
    address = services["proxy"]["networks"]["front"]["ipv4_address"]
    assert services["control-plane"]["environment"]["KASBAH_TRUSTED_PROXIES"] == address

    for secret, user in {
        "database_url": "control-plane",
        "owner_database_url": "migrate",
        "redis_url": "control-plane",
        "site_main_control_broker_url": "control-plane",
        "site_main_worker_broker_url": "worker-main",
    }.items():
        host = (secrets_folder / secret).read_text().rpartition("@")[2].partition(":")[0]
        assert stack.networks_of(services[host]) & stack.networks_of(services[user]), (secret, host, user)


def test_the_proxy_lets_the_gateway_say_what_is_too_large() -> None:
    limit = re.search(r"\{\$BODY_LIMIT:(\d+)MiB\}", (stack.ROOT / "infra/proxy/Caddyfile").read_text())
    assert limit
    assert MAX_BODY < int(limit[1]) * 2**20 <= 2 * MAX_BODY
