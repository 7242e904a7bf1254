"""How the tests run.

Real servers, from wheels, started when a test first needs them and ended with the run: PostgreSQL and Valkey.
Django connects as the APPLICATION's role to a database that the owner migrated, exactly as in production, so
row-level security, grants and triggers hold in every test. Each xdist worker has servers of its own.

- `@pytest.mark.django_db`: the test runs in a transaction that is rolled back. Rows exist only inside
  `rls.tenant_scope(...)` or `rls.platform_scope()`. No other connection sees them, nothing is announced.
- `@pytest.mark.django_db(transaction=True)`: real commits; the owner empties the tables afterwards (the
  application may not). Needed with `database`, threads, LISTEN, or a second process.
- `database`: the asynchronous `kasbah.common.database.Database`, opened. Use it with transaction=True.
- `owner`, `superuser`: psycopg connections in autocommit mode, for set-up and negative controls.
- `app_url`, `owner_url`: libpq URLs, for child processes.
- `redis`: an asynchronous client of an emptied Valkey; `valkey_server`: the server (`url`, `kill()`, `restart()`).
- `tests/factories.py` makes tenants, projects, keys and the rest without services.

Nothing may connect beyond this machine: see `_no_network`.
"""

from __future__ import annotations

import atexit
import base64
import ipaddress
import os
import secrets as random_secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local import postgres as local_postgres
from infra.local import secrets
from infra.local import valkey as local_valkey

# A short path: a Unix socket's may have 107 bytes. The addresses are known before any server runs, so that
# settings can be loaded first.
HOME = Path(tempfile.mkdtemp(prefix="ksb-test-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
# Programs of others that some tests need: the marker, the variable that names the program, what to say without it.
OTHERS = {
    "amqp": ("KASBAH_TEST_AMQP", "tests of RabbitMQ; KASBAH_TEST_AMQP names no rabbitmq-server"),
    "rsyslog": ("KASBAH_TEST_RSYSLOG", "tests with rsyslog; KASBAH_TEST_RSYSLOG names no rsyslogd"),
    "go": ("KASBAH_TEST_GO", "tests with Go's verifiers; KASBAH_TEST_GO names no go (golang-golang-x-mod-dev)"),
}
# Modules that start whole stacks or wait for brokers; `make check` leaves them to `make test`, to take two minutes.
WIDE = {
    "api/test_access.py",
    "api/test_roles.py",
    "attacks/test_row_level_security.py",
    "common/test_start.py",
    "gateway/test_answers.py",
    "gateway/test_classifying.py",
    "gateway/test_developer_docs.py",
    "gateway/test_idempotency.py",
    "gateway/test_refusals.py",
    "inference_worker/test_gate.py",
    "inference_worker/test_pool.py",
    "inference_worker/test_transport.py",
    "infra/test_compose.py",
    "integration/test_openai_sdk.py",
    "local/test_servers.py",
    "local/test_supervisor.py",
    "residency/test_verify_receipt.py",
    "serving/test_dispatch.py",
    "serving/test_housekeeping.py",
    "serving/test_lives.py",
    "serving/test_round_trip.py",
}
LEFT_OUT = pytest.StashKey[dict[str, int]]()
KEEP = ("django_migrations", "django_content_type", "auth_permission")
# Tables that nobody may empty, and what keeps them.
KEPT = (
    ("audit_intake", "audit_intake_insert_only"),
    ("audit_leaf", "audit_leaf_insert_only"),
    ("audit_checkpoint", "audit_checkpoint_insert_only"),
    ("audit_cosignature", "audit_cosignature_insert_only"),
    ("audit_pruned", "audit_pruned_insert_only"),
    ("audit_keysuccession", "audit_keysuccession_insert_only"),
    ("audit_content", "audit_content_keep"),
    ("audit_contentkey", "audit_contentkey_keep"),
    ("audit_erasure", "audit_erasure_keep"),
    ("audit_pruningpolicy", "audit_pruningpolicy_keep"),
    ("audit_legalhold", "audit_legalhold_keep"),
    ("identity_accountchange", "identity_accountchange_keep"),
)


def _key() -> str:
    return base64.b64encode(random_secrets.token_bytes(32)).decode("ascii")


def _url(role: str) -> str:
    return f"postgresql://{role}:{secrets.password(HOME, role)}@/{local_postgres.DATABASE}?host={HOME}/run/pg"


VALKEY = local_valkey.prepare(HOME, "control", aof=False)
for _name in [name for name in os.environ if name.startswith("KASBAH_") and not name.startswith("KASBAH_TEST_")]:
    del os.environ[_name]
os.environ.update(
    DJANGO_SETTINGS_MODULE="kasbah.config.settings",
    KASBAH_AUDIT_DIR=str(HOME / "audit"),
    KASBAH_DATABASE_URL=_url(local_postgres.APPLICATION),
    KASBAH_REDIS_URL=VALKEY.url,
    KASBAH_SECRET_KEY=random_secrets.token_urlsafe(64),
    KASBAH_KEK=_key(),
    KASBAH_API_KEY_PEPPER=f"p1:{_key()}",
    KASBAH_AUDIT_KEY=_key(),
    KASBAH_INSTALLATION="test",
    KASBAH_ALLOWED_HOSTS="testserver,127.0.0.1,localhost",
    KASBAH_MODELS_DIR=str(HOME / "models"),
)


def _hear_signals() -> None:
    """What a background job inherits ignored or blocked would be inherited by every process that a test starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def pytest_configure() -> None:
    """Load the settings now that the environment stands; pytest-django sets Django up once they are loaded."""
    _hear_signals()
    from django.conf import settings

    assert settings.INSTALLED_APPS
    # xdist's workers inherit the environment: with this in it pytest-django would load settings before their conftest.
    del os.environ["DJANGO_SETTINGS_MODULE"]


@pytest.fixture(scope="session")
def postgres_server(django_db_blocker: Any) -> Iterator[local_postgres.Postgres]:
    """A PostgreSQL with the migrated database. It need not survive a power cut, so it does not wait for the disk."""
    fast = {"fsync": "off", "full_page_writes": "off"}
    with local_postgres.postgres(HOME, settings=fast) as server:
        try:
            with django_db_blocker.unblock():
                _migrate(server.owner_url)
            yield server
        finally:
            from django.db import connections

            for connection in connections.all(initialized_only=True):
                connection.close()
                connection.close_pool()  # type: ignore[attr-defined]


def _migrate(owner_url: str) -> None:
    from django.core.management import call_command
    from django.db import connections

    from kasbah.config.settings import database

    connections.settings["owner"] = connections.configure_settings({"owner": database(owner_url), "default": {}})[
        "owner"
    ]
    try:
        call_command("migrate", database="owner", verbosity=0, interactive=False)
    finally:
        connections["owner"].close()
        connections["owner"].close_pool()  # type: ignore[attr-defined]
        del connections["owner"], connections.settings["owner"]


@pytest.fixture(scope="session")
def django_db_setup(postgres_server: local_postgres.Postgres) -> None:
    """What the marks `django_db` use: the database as it is; pytest-django's own would be made by a superuser."""


@pytest.fixture(scope="session")
def owner_url(postgres_server: local_postgres.Postgres) -> str:
    """The role that owns the tables."""
    return postgres_server.owner_url


@pytest.fixture(scope="session")
def app_url(postgres_server: local_postgres.Postgres) -> str:
    """The role that the running platform has."""
    return postgres_server.app_url


@pytest.fixture
def owner(owner_url: str) -> Iterator[psycopg.Connection]:
    """A connection as the owner of the tables; row-level security is forced upon it too."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def superuser(postgres_server: local_postgres.Postgres) -> Iterator[psycopg.Connection]:
    """A connection that no row-level security holds."""
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True, scope="session")
def _empty_as_owner() -> Iterator[None]:
    """After a test with real commits: the owner empties what Django's flush may not."""
    from django.test import TransactionTestCase

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda self: empty_tables(_url(local_postgres.OWNER)))
        yield


@pytest.fixture(autouse=True)
def _no_leftovers(request: pytest.FixtureRequest) -> None:
    """Before a test with real commits: what `audit.record_apart` committed during a test that was rolled back."""
    mark = request.node.get_closest_marker("django_db")
    if "transactional_db" in request.fixturenames or (mark is not None and mark.kwargs.get("transaction")):
        server: local_postgres.Postgres = request.getfixturevalue("postgres_server")
        with psycopg.connect(server.superuser_url) as connection:
            left = connection.execute("SELECT 1 FROM audit_intake LIMIT 1").fetchone()
        if left is not None:
            empty_tables(server.owner_url)


def empty_tables(owner_url: str) -> None:
    """Remove every row that tests made, the audit intake's included."""
    with psycopg.connect(owner_url) as connection:
        # A test that left a transaction open holds locks; say so instead of waiting for ever.
        connection.execute("SET lock_timeout = '5s'")
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)", [list(KEEP)]
        ).fetchall()
        for table, trigger in KEPT:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")  # type: ignore[arg-type]
        connection.execute("TRUNCATE " + ", ".join(f'"{name}"' for (name,) in tables))  # type: ignore[arg-type]
        for table, trigger in KEPT:
            connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="session")
def _no_denials_by_the_clock() -> Iterator[None]:
    """Refusals are counted and told of when a test says so (`denials.write()`), not in the middle of another."""
    from kasbah.audit.services.denials import Denials, denials

    atexit.unregister(denials.end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denials, "_start", lambda self, delay: None)
        yield


@pytest.fixture
async def database(transactional_db: None) -> AsyncIterator[Any]:
    """The asynchronous side's database, opened."""
    from kasbah.common.database import Database

    database = Database(size=4)
    await database.open()
    yield database
    await database.close()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[local_valkey.Valkey]:
    """The control plane's own store, as KASBAH_REDIS_URL names it."""
    VALKEY.start()
    yield VALKEY
    VALKEY.stop()


@pytest.fixture
async def redis(valkey_server: local_valkey.Valkey) -> AsyncIterator[Any]:
    """A client of the emptied store."""
    from redis.asyncio import Redis

    async with Redis.from_url(valkey_server.url) as client:
        await client.flushall()
        yield client


class NetworkRefused(AssertionError):
    """A test tried to reach another machine."""


NEIGHBOURS: set[str] = set()  # addresses of namespaces that a test made (tests/integration/namespaces.py)


def local_only(address: object) -> None:
    """Raise NetworkRefused unless `address` is a Unix socket's path or names this machine."""
    if not isinstance(address, tuple):
        return
    host = str(address[0])
    if host in NEIGHBOURS:
        return
    try:
        allowed = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        allowed = host in {"localhost", ""}
    if not allowed:
        raise NetworkRefused(f"tests stay on this machine; this one wanted {host}")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection, datagram and name look-up that leaves this machine (tests/common/test_network.py)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, position in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
            real = getattr(socket.socket, name)

            def guarded(self: socket.socket, *args: Any, _real: Any = real, _position: int = position) -> Any:
                local_only(args[_position])
                return _real(self, *args)

            patch.setattr(socket.socket, name, guarded)
        look_up = socket.getaddrinfo

        def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host is not None:
                local_only((host.decode() if isinstance(host, bytes) else host, 0))
            return look_up(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark wide modules. Tests with programs that are not installed with the others are left out, and said to be."""
    here = Path(__file__).parent
    for item in items:
        if str(item.path.relative_to(here)) in WIDE:
            item.add_marker("wide")
    counts: dict[str, int] = {}
    for marker, (variable, _) in OTHERS.items():
        left_out = [] if os.environ.get(variable) else [item for item in items if item.get_closest_marker(marker)]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)
            counts[marker] = len(left_out)
    config.stash[LEFT_OUT] = counts


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist, which alone collects, tells the one that reports what it left out."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left_out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects the same tests, so one answer is all."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what did not run, where everybody looks: also in the file that `make test` prints at its end."""
    lines = [f"NOT RUN: {count} {OTHERS[marker][1]}." for marker, count in config.stash.get(LEFT_OUT, {}).items()]
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []))
    lines += [f"NOT RUN: {count} tests; {reason.removeprefix('Skipped: ')}." for reason, count in reasons.items()]
    for line in lines:
        terminalreporter.write_line(line, yellow=True)
    if lines and (path := os.environ.get("KASBAH_TEST_LEFT_OUT")):
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
