"""The installation guide, carried out: compose's services as processes, each with its own secrets, roles and users.

The commands are taken out of docs/operator/installation.md, so the guide is what is tested.
"""

from __future__ import annotations

import json
import re
import shlex
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from infra.containers import make_secrets
from tests.infra import production, stack
from tests.infra.production import Production
from tests.infra.test_proxy import HOST
from tests.registry import folders

pytestmark = pytest.mark.slow

POLICY = {
    "version": 1,
    "description": "The main site, nothing secret",
    "rules": [
        {"id": "main", "effect": "allow", "data_classes": ["internal"], "models": ["mixtral-8x7b"], "sites": ["main"]}
    ],
}


def guide() -> Iterator[list[str]]:
    """What the guide runs in the service `manage`, in its order: the words after the service's name."""
    text = (stack.ROOT / "docs/operator/installation.md").read_text(encoding="utf-8")
    for line in re.findall(r"^docker compose run .*?\bmanage (.+)$", text, re.MULTILINE):
        yield shlex.split(line)


def wait_for(what: Callable[[], object], patience: float = 60.0) -> None:
    """Until it is true."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


class Facts:
    """What the guide's commands told, for the ones after them."""

    def __init__(self) -> None:
        self.told = {"DIGEST": "", "SEEN": "", "ID": "", "FINGERPRINT": ""}  # words of the guide that stand for them
        self.key = ""


@pytest.fixture(scope="module")
def installed() -> Iterator[tuple[Production, Facts]]:
    """Everything up, every command of the guide run."""
    with tempfile.TemporaryDirectory(prefix="ksb-prod-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        assert make_secrets.main(["--folder", str(folder / "made"), "--self-signed", HOST]) == 0
        with production.running(folder, folder / "made") as running:
            wait_for(lambda: running.healthy("control-plane"))
            yield running, carry_out(running)


def carry_out(running: Production) -> Facts:
    """Run the guide."""
    facts, folder = Facts(), running.folder
    (folder / "policy.yaml").write_text(json.dumps(POLICY))
    files = {"/import": str(folders.model(folder / "import")), "/policy.yaml": str(folder / "policy.yaml")}

    def run(words: list[str]) -> Any:
        words = [facts.told.get(word, word) for word in words]
        return json.loads(running.run("manage", *words, "--json", **files))

    for words in guide():
        told = run(words)
        match words:
            case ["registermodel", *_]:
                facts.told["DIGEST"] = told["digest"]
            case ["approveversion", "--digest", _]:
                facts.told["SEEN"] = told["approval_digest"]
            case ["policies", *_]:
                facts.told["SEEN"] = told[0]["comparison"]
            case ["enroltoken", *_]:
                (running.secrets / "site_main_enrol_token").write_text(told["token"])
                running.start("worker-main")
                wait_for(lambda: run(["workers"]))
            case ["workers", "approve", *_]:
                wait_for(lambda: running.healthy("worker-main"))
                wait_for(lambda: "(ready)" in "".join(run(["workers", "--site", "main"])[0]["serves"]))
            case ["workers", *_]:
                facts.told |= {"ID": told[0]["id"], "FINGERPRINT": told[0]["fingerprint"]}
            case ["createkey", *_]:
                facts.key = next(value for value in told.values() if str(value).startswith("ksb_"))
    return facts


@pytest.fixture
def client(installed: tuple[Production, Facts]) -> Iterator[openai.OpenAI]:
    """The SDK, through the proxy's TLS, by the name in the certificate."""
    running, facts = installed
    context = ssl.create_default_context(cafile=str(running.secrets / "tls_certificate"))
    transport = httpx.HTTPTransport(verify=context)

    class Named(httpx.BaseTransport):
        """Asks for the public name at the local port."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["sni_hostname"] = HOST
            return transport.handle_request(request)

        def close(self) -> None:
            transport.close()

    with httpx.Client(transport=Named(), headers={"host": HOST}, timeout=60) as http:
        yield openai.OpenAI(
            base_url=f"https://127.0.0.1:{running.https}/v1", api_key=facts.key, http_client=http, max_retries=0
        )


def test_the_guide_leads_to_an_answer(client: openai.OpenAI) -> None:
    wait_for(lambda: [model.id for model in client.models.list()] == ["mixtral-8x7b"])
    # Housekeeping may show a worker as ready up to a second before the gateway has looked; the SDK asks again, as told.
    answer = client.with_options(max_retries=3).chat.completions.with_raw_response.create(
        model="mixtral-8x7b", messages=[{"role": "user", "content": "[[tokens=3 tag=a]]"}]
    )
    assert answer.headers["kasbah-site"]
    completion = answer.parse()
    assert completion.choices[0].message.content == " a0 a1 a2"
    assert completion.usage
    assert completion.usage.completion_tokens == 3


def test_a_stream_comes_through_the_proxy(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="mixtral-8x7b", messages=[{"role": "user", "content": "[[tokens=5 delay=0.2 tag=b]]"}], stream=True
    )
    arrived = [
        (time.monotonic(), chunk.choices[0].delta.content)
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert "".join(text for _, text in arrived) == " b0 b1 b2 b3 b4"
    assert arrived[-1][0] - arrived[0][0] > 0.4  # as they were made, not all at the end


def test_what_the_policy_does_not_allow_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(
            model="mixtral-8x7b",
            messages=[{"role": "user", "content": "x"}],
            extra_headers={"kasbah-data-class": "secret"},
        )
    assert refused.value.code == "residency_denied"


def test_the_gateway_says_itself_what_is_too_large(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(
            model="mixtral-8x7b", messages=[{"role": "user", "content": "x" * (4 * 2**20 + 1)}]
        )
    assert refused.value.status_code == 413
    assert refused.value.code == "request_too_large"


@pytest.mark.parametrize("service", ["control-plane", "housekeeping", "worker-main"])
def test_each_service_is_healthy_by_its_own_check(installed: tuple[Production, Facts], service: str) -> None:
    wait_for(lambda: installed[0].healthy(service))


def test_nobody_lacks_a_right(installed: tuple[Production, Facts]) -> None:
    """That the worker enrolled shows that beat ticks and housekeeping answers; here, that nothing was refused."""
    running, _ = installed
    assert list(running.folder.glob("beat*"))
    for service in ("control-plane", "housekeeping", "beat", "worker-main"):
        assert "Traceback" not in running.log(service)
        assert "NOPERM" not in running.log(service)
        assert "permission" not in running.log(service).lower()


def test_a_server_refuses_the_owners_role(installed: tuple[Production, Facts]) -> None:
    """Control: with the credentials that only `migrate` gets, the server does not start."""
    running, _ = installed
    owner = (running.secrets / "owner_database_url").read_text()
    environment = running.environment("control-plane") | {"KASBAH_DATABASE_URL": owner, "KASBAH_BIND": "127.0.0.1:0"}
    refused = subprocess.run(
        running.command("control-plane"),
        cwd=running.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode != 0
    assert "KASBAH_DATABASE_URL" in refused.stderr


def test_no_secret_is_in_any_log(installed: tuple[Production, Facts]) -> None:
    running, facts = installed
    logs = "\n".join(path.read_text(errors="replace") for path in running.folder.glob("*.log"))
    assert len(logs) > 500
    secrets = {path.name: path.read_text().strip() for path in running.secrets.iterdir() if "tls_c" not in path.name}
    for name, secret in {**secrets, "key": facts.key}.items():
        assert not secret or secret not in logs, name  # audit_key_previous is empty
        password = re.search(r"://[^:/]+:([^@]+)@", secret)
        assert not password or password[1] not in logs, name
