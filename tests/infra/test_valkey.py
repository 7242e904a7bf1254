"""The users that infra/valkey makes, in a real Valkey: a worker can do its work and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.worker import state
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.retry import Retry

from inference_worker.contract import keys, scripts
from inference_worker.tasks.carrier import BATCHED, Carrier
from infra.local import valkey

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra/valkey"
JOB, ATTEMPT, WORKER = "0190-job", 1, "w1"


def production_settings(name: str, secrets_folder: Path) -> dict[str, str]:
    """The lines of a configuration file, with the paths of this machine instead of the container's."""
    lines = [line.split("#")[0].split(maxsplit=1) for line in (INFRA / name).read_text().splitlines()]
    settings = {line[0]: line[1].strip() for line in lines if len(line) == 2 and not line[0].startswith("#")}
    settings["aclfile"] = str(secrets_folder / Path(settings["aclfile"]).name)
    settings.update(dir=".", bind="127.0.0.1")
    del settings["port"]
    return settings


class Users:
    """Clients of one server, one for each user."""

    def __init__(self, server: valkey.Valkey, secrets_folder: Path, files: dict[str, str]) -> None:
        self.port = server.port
        self.urls = {}
        for user, name in files.items():
            front, _, _ = (secrets_folder / name).read_text().rpartition("@")
            self.urls[user] = f"{front}@127.0.0.1:{server.port}/0"
        self.clients = {user: Redis.from_url(url) for user, url in self.urls.items()}

    def __getitem__(self, user: str) -> Redis:
        return self.clients[user]


def serve(folder: Path, secrets_folder: Path, name: str, files: dict[str, str]) -> Iterator[Users]:
    """Run one Valkey as its container does."""
    server = valkey.prepare(folder, settings=production_settings(name, secrets_folder))
    # `start` asks with the password of a server without users; here there are only the file's.
    server._answers = lambda: answers(server.port)  # type: ignore[method-assign]
    server.start()
    users = Users(server, secrets_folder, files)
    yield users
    for client in users.clients.values():
        client.close()
    server.stop()


def answers(port: int) -> bool:
    """The health check of the container: the user `health` may PING."""
    with Redis(port=port, username="health", password="any", socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except OSError:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, secrets_folder: Path) -> Iterator[Users]:
    """A site's broker."""
    files = {"control": "site_main_control_broker_url", "worker": "site_main_worker_broker_url"}
    yield from serve(tmp_path_factory.mktemp("vk"), secrets_folder, "site.conf", files)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, secrets_folder: Path) -> Iterator[Users]:
    """The control plane's own store."""
    yield from serve(tmp_path_factory.mktemp("vk"), secrets_folder, "control.conf", {"kasbah": "redis_url"})


def test_a_worker_can_run_the_contracts_scripts(site: Users) -> None:
    control, worker = site["control"], site["worker"]
    job, frames, replies = keys.job(JOB), keys.frames(JOB, ATTEMPT), keys.replies("web1")
    control.xadd(replies, {"start": "1"})
    offered = [job, keys.queue("d1"), keys.offered("d1")]
    assert control.eval(scripts.OFFER, 3, *offered, ATTEMPT, keys.JOB_TTL, "{}") == 0

    assert script(worker, scripts.CLAIM, [job], [ATTEMPT, WORKER, 10_000, "n"]) == scripts.OK
    assert script(worker, scripts.RENEW, [job], [WORKER, 10_000, ATTEMPT]) == [scripts.OK]
    append = [JOB, ATTEMPT, WORKER, 0, b"sealed", "1", keys.FRAMES_TTL, 10_000]
    assert script(worker, scripts.APPEND, [job, frames, replies], append) == scripts.OK

    assert control.xlen(frames) == 1
    assert control.xlen(replies) == 2
    assert control.ttl(frames) > 0
    look = control.eval(scripts.LOOK, 3, offered[0], offered[2], offered[1])
    assert look[0] == b"1"
    assert look[8] == 0  # nothing was put in after it
    assert control.eval(scripts.CANCEL, 1, job) == 1
    assert control.eval(scripts.REFUSE, 1, job, ATTEMPT, "replayed") == 1


def script(client: Redis, source: str, names: list[str], arguments: list[object]) -> object:
    """As the worker's store does: load once, then call by digest."""
    sha = client.script_load(source)
    return client.evalsha(sha, len(names), *names, *arguments)


def test_a_worker_can_report_and_enrol(site: Users) -> None:
    control, worker = site["control"], site["worker"]
    worker.xadd(keys.REPORTS, {keys.REPORT: "token"}, maxlen=keys.REPORTS_MAXLEN, approximate=True)
    worker.set(keys.worker(WORKER), "token", ex=keys.WORKER_TTL)
    control.set(keys.enrolment_answer("n1"), b"box", ex=60)
    control.set(keys.assignment(WORKER), "token")
    assert worker.get(keys.enrolment_answer("n1")) == b"box"
    assert worker.get(keys.assignment(WORKER)) == b"token"
    assert control.xlen(keys.REPORTS) == 1
    assert control.get(keys.worker(WORKER)) == b"token"


REFUSED = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "elsewhere"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "worker", "+@all"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("MONITOR",),
    ("SHUTDOWN", "NOSAVE"),
    ("SAVE",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "LIST"),
    ("EVAL", "return redis.call('GET', KEYS[1])", "1", "ksb:offered:d1"),
    ("SUBSCRIBE", "anything"),
    ("PUBLISH", "anything", "x"),
    ("XRANGE", "ksb:frames:0190-job:1", "-", "+"),  # a worker writes answers; it reads nobody's
    ("XREAD", "STREAMS", "ksb:replies:web1", "0"),
    ("XRANGE", "ksb:reports", "-", "+"),
    ("SET", "ksb:assign:w1", "forged"),
    ("SET", "ksb:enrol:n1", "forged"),
    ("DEL", "ksb:assign:w1"),
    ("XADD", "ksb:assign:w1", "*", "a", "b"),
    ("HGET", "unacked", "x"),
    ("SET", "elsewhere", "1"),
    ("GET", "ksb:offered:d1"),
    ("LPUSH", "celery", "{}"),
    ("LPUSH", "housekeeping", "{}"),
    ("SADD", "_kombu.binding.celery.pidbox", "x"),
]


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: " ".join(command)[:40])
def test_a_worker_is_refused_the_rest(site: Users, command: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        site["worker"].execute_command(*command)


def test_a_script_gets_no_further_than_its_user(site: Users) -> None:
    with pytest.raises(ResponseError, match=r"(?i)permission"):
        script(site["worker"], "return redis.call('SET', 'ksb:assign:w1', 'forged')", [], [])
    with pytest.raises(ResponseError, match=r"(?i)permission"):
        script(site["worker"], "return redis.call('FLUSHALL')", [], [])


def test_without_the_users_file_the_worker_could_do_it(tmp_path: Path) -> None:
    """Control: the same commands pass on a server that has no users, so the test above can fail."""
    with valkey.valkey(tmp_path) as server, Redis.from_url(server.url) as client:
        client.set("ksb:assign:w1", "forged")
        assert client.keys("*") == [b"ksb:assign:w1"]
        assert client.flushall()


@pytest.mark.parametrize("name", ["site", "control"])
def test_nobody_enters_without_a_password(name: str, request: pytest.FixtureRequest) -> None:
    users: Users = request.getfixturevalue(name)
    for credentials in ({}, {"username": "default", "password": ""}, {"username": "worker", "password": "wrong"}):
        once = Retry(NoBackoff(), 0)
        with Redis(port=users.port, retry=once, **credentials) as client, pytest.raises(AuthenticationError):  # type: ignore[arg-type]
            client.get("x")
    with Redis(port=users.port, username="health", password="any") as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.get("x")


@pytest.mark.parametrize("command", [("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*")])
def test_the_control_plane_does_not_administer_a_store(site: Users, control: Users, command: tuple[str, ...]) -> None:
    for client in (site["control"], control["kasbah"]):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command)


# Celery ends a worker by raising WorkerShutdown, a SystemExit, in its thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [BATCHED, "stock"])
async def test_a_worker_consumes_its_queue_as_this_user(site: Users, kind: str) -> None:
    """With the worker's own Celery consumer; the message is pushed as the control plane's user pushes it."""
    got: asyncio.Queue[dict[str, int]] = asyncio.Queue()
    name = keys.queue(f"of-{kind}")
    carrier = Carrier(site.urls["worker"], got.put, asyncio.get_running_loop(), kind)
    carrier.start()
    try:
        carrier.consume({name: 4})
        await asyncio.to_thread(send, site.urls["control"], name)
        assert sorted([(await asyncio.wait_for(got.get(), 20))["n"] for _ in range(5)]) == list(range(5))
        await asyncio.sleep(0.5)  # until the last of them is acknowledged; what is not would be put back at the end
    finally:
        await asyncio.to_thread(carrier.stop, 10)
        state.should_stop = None  # Celery's, of the whole process: a worker process has one carrier
    assert site["control"].llen(name) == 0


def send(broker: str, name: str) -> None:
    """Five messages by Celery's own producer."""
    sender = Celery(broker=broker, set_as_current=False)
    with sender.connection() as connection:
        for number in range(5):
            sender.send_task(keys.TASK, [{"n": number}], queue=name, connection=connection)
