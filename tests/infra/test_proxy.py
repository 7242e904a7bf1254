"""The reverse proxy with its real configuration and real TLS, before a small upstream that tells what it got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from kasbah.config.http_server import IDLE_TIMEOUT, BoundedProtocol

ROOT = Path(__file__).resolve().parents[2]
CADDYFILE = ROOT / "infra/proxy/Caddyfile"
CADDY = Path(sys.executable).with_name("caddy")
HOST = "kasbah.test"
LIMIT = 4096


class Upstream:
    """Stands for the control plane and for the identity provider. `idle`: seconds as in `manage.py serve`."""

    def __init__(self, idle: int = IDLE_TIMEOUT) -> None:
        self.gone = threading.Event()
        self.go_on = threading.Event()
        self.port = free_port()
        routes = [
            Route("/stream", self.stream),
            Route("/silent", self.silent),
            Route("/{path:path}", self.echo, methods=["GET", "POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            port=self.port,
            http=BoundedProtocol,
            log_level="error",
            lifespan="off",
            proxy_headers=False,
            timeout_keep_alive=idle,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def echo(self, request: Request) -> JSONResponse:
        """What arrived."""
        return JSONResponse(
            {
                "path": request.url.path,
                "headers": dict(request.headers),
                "size": len(await request.body()),
                "connection": request.client.port if request.client else None,
            },
            headers={"server": "inner", "x-request-id": "r-1"},
        )

    async def silent(self, request: Request) -> JSONResponse:
        """Answers nothing, as the gateway while a job waits in its queue; sees the client go."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        return JSONResponse({})

    async def stream(self, request: Request) -> StreamingResponse:
        """One event; the second when the test says so; then silence until the client has gone."""

        async def events() -> Any:
            try:
                yield "data: first\n\n"
                await asyncio.to_thread(self.go_on.wait, 5)
                yield "data: second\n\n"
                await asyncio.sleep(60)  # an engine that computes: nothing is written that could fail
            finally:
                self.gone.set()

        return StreamingResponse(events(), media_type="text/event-stream")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise TimeoutError(port)


@contextlib.contextmanager
def running(upstream: Upstream) -> Iterator[Upstream]:
    """In a thread."""
    upstream.thread.start()
    wait_for_port(upstream.port)
    try:
        yield upstream
    finally:
        upstream.server.should_exit = True
        upstream.thread.join(5)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Running in a thread."""
    with running(Upstream()) as upstream:
        yield upstream


@dataclass(frozen=True)
class Address:
    """Where something listens that this file did not start."""

    port: int


@contextlib.contextmanager
def caddy(
    caddyfile: Path, upstream: Upstream | Address, secrets_folder: Path, folder: Path, **changes: str
) -> Iterator[tuple[int, int, Path]]:
    """Run the proxy; answers its HTTPS and HTTP ports and its log."""
    https, http, health, log = free_port(), free_port(), free_port(), folder / "caddy.log"
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PUBLIC_HOST": HOST,
        "SECRETS_DIR": str(secrets_folder),
        "HTTPS_PORT": str(https),
        "HTTP_PORT": str(http),
        "UPSTREAM": f"127.0.0.1:{upstream.port}",
        "IDENTITY_UPSTREAM": f"127.0.0.1:{upstream.port}",
        "BODY_LIMIT": str(LIMIT),
        "HEALTH_PORT": str(health),
        **changes,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [CADDY, "run", "--adapter", "caddyfile", "--config", caddyfile],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(https)
        assert httpx.get(f"http://127.0.0.1:{health}/healthz").status_code == 200  # the container's own check
        yield https, http, log
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def proxy(
    upstream: Upstream, secrets_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int, Path]]:
    """The proxy as it ships."""
    with caddy(CADDYFILE, upstream, secrets_folder, tmp_path_factory.mktemp("caddy")) as running:
        yield running


def client(secrets_folder: Path, port: int) -> httpx.Client:
    """Trusts the folder's certificate alone, and asks for the public name at the local port."""
    context = ssl.create_default_context(cafile=str(secrets_folder / "tls_certificate"))
    return httpx.Client(verify=context, base_url=f"https://127.0.0.1:{port}", headers={"host": HOST}, timeout=10)


def send(proxy: tuple[int, int, Path], secrets_folder: Path, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """One request with the right name in the TLS greeting."""
    with client(secrets_folder, proxy[0]) as http:
        return http.request(method, path, extensions={"sni_hostname": HOST}, **kwargs)


def test_requests_pass_over_tls_and_say_so(proxy: Any, secrets_folder: Path) -> None:
    answer = send(
        proxy,
        secrets_folder,
        "POST",
        "/v1/chat/completions",
        json={"a": 1},
        headers={"authorization": "Bearer k", "x-forwarded-proto": "http", "x-forwarded-for": "6.6.6.6"},
    )
    assert answer.status_code == 200
    got = answer.json()["headers"]
    assert got["authorization"] == "Bearer k"
    assert got["x-forwarded-proto"] == "https"  # not what the client claimed
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert got["host"] == HOST
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["x-request-id"] == "r-1"
    assert "server" not in answer.headers


def test_plain_http_is_sent_to_https(proxy: Any) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy[1]}/v1/models?x=1", headers={"host": HOST})
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{HOST}/v1/models?x=1")


def test_an_old_tls_is_refused(proxy: Any, secrets_folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(secrets_folder / "tls_certificate"))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", proxy[0])) as raw,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(raw, server_hostname=HOST),
    ):
        pass


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_bodies_have_a_limit(proxy: Any, secrets_folder: Path, size: int, status: int) -> None:
    assert send(proxy, secrets_folder, "POST", "/v1/completions", content=b"x" * size).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/identity/realms/kasbah/protocol/openid-connect/auth", 200),
        ("/identity/resources/x/login.css", 200),
        ("/identity/admin/", 404),
        ("/identity/admin/realms/kasbah/users", 404),
        ("/identity/realms/../admin/realms", 404),
        ("/identity/realms/%2e%2e/admin/realms", 404),
        ("/identity/realms/master/protocol/openid-connect/token", 404),
        ("/identity/Realms/MASTER/protocol", 404),
        ("/identity/metrics", 404),
        ("/healthz", 200),
        ("/readyz", 404),
    ],
)
def test_what_is_seen_from_outside(proxy: Any, secrets_folder: Path, path: str, status: int) -> None:
    raw = path.encode()
    with client(secrets_folder, proxy[0]) as http:
        request = http.build_request("GET", "/", extensions={"sni_hostname": HOST})
        request.url = request.url.copy_with(raw_path=raw)  # as it stands, dots included
        assert http.send(request).status_code == status


def read_first(upstream: Upstream, port: int, secrets_folder: Path, patience: float = 10.0) -> bool:
    """Open a stream, take its first two events one by one, leave; whether the upstream saw us leave in a second."""
    upstream.go_on.clear()
    upstream.gone.clear()
    with (
        client(secrets_folder, port) as http,
        http.stream("GET", "/stream", extensions={"sni_hostname": HOST}, timeout=patience) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "data: first"  # while the upstream still waits to send the second
        upstream.go_on.set()
        assert next(line for line in lines if line and "first" not in line) == "data: second"
    return upstream.gone.wait(1.0)


def test_streams_are_not_held_back_and_end_with_the_client(
    proxy: Any, upstream: Upstream, secrets_folder: Path
) -> None:
    assert read_first(upstream, proxy[0], secrets_folder)


def leave_silent(upstream: Upstream, port: int, secrets_folder: Path) -> bool:
    """Leave before anything was answered; whether the upstream saw it within a second."""
    upstream.gone.clear()
    with client(secrets_folder, port) as http, pytest.raises(httpx.ReadTimeout):
        http.get("/silent", extensions={"sni_hostname": HOST}, timeout=0.3)
    return upstream.gone.wait(1.0)


def test_a_client_that_leaves_early_is_seen_to_leave(proxy: Any, upstream: Upstream, secrets_folder: Path) -> None:
    assert leave_silent(upstream, proxy[0], secrets_folder)


def test_the_server_keeps_idle_connections_longer_than_the_proxy() -> None:
    found = re.search(r"keepalive (\d+)s", CADDYFILE.read_text())
    assert found is not None
    assert int(found[1]) + 10 <= IDLE_TIMEOUT


def connections_of(port: int, secrets_folder: Path, pause: float) -> set[int]:
    """The proxy's own ports of two requests to the upstream, `pause` seconds apart."""
    found = set()
    with client(secrets_folder, port) as http:
        for seconds in (0.0, pause):
            time.sleep(seconds)
            answer = http.post("/v1/completions", content=b"x", extensions={"sni_hostname": HOST})
            assert (answer.status_code, answer.json()["size"]) == (200, 1)
            found.add(answer.json()["connection"])
    return found


@pytest.mark.slow
def test_a_connection_that_rested_is_used_again(proxy: Any, secrets_folder: Path) -> None:
    assert len(connections_of(proxy[0], secrets_folder, 6.5)) == 1


@pytest.mark.slow
def test_a_server_that_closes_first_would_be_noticed(secrets_folder: Path, tmp_path: Path) -> None:
    """Control: with uvicorn's own five seconds the proxy has to open another connection."""
    with running(Upstream(idle=5)) as hasty, caddy(CADDYFILE, hasty, secrets_folder, tmp_path) as (port, _, _):
        assert len(connections_of(port, secrets_folder, 6.5)) == 2


def test_a_buffer_would_be_noticed(upstream: Upstream, secrets_folder: Path, tmp_path: Path) -> None:
    """Control: with a buffer for answers the first event does not arrive before the second is sent."""
    changed = CADDYFILE.read_text().replace("transport http {", "response_buffers 64KiB\n\t\t\ttransport http {")
    (tmp_path / "Caddyfile").write_text(changed)
    with caddy(tmp_path / "Caddyfile", upstream, secrets_folder, tmp_path) as (port, _, _):
        with pytest.raises(httpx.ReadTimeout):
            read_first(upstream, port, secrets_folder, patience=1.0)
        upstream.go_on.set()


def test_the_log_keeps_no_key_and_no_query(proxy: Any, secrets_folder: Path) -> None:
    send(proxy, secrets_folder, "GET", "/v1/models?token=q-secret", headers={"authorization": "Bearer k-secret"})
    text = proxy[2].read_text()
    logged = [json.loads(line) for line in text.splitlines() if "/v1/models" in line]
    assert any(entry["request"]["uri"] == "/v1/models?..." for entry in logged)
    assert "q-secret" not in text
    assert "k-secret" not in text
