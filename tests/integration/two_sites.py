"""Two sites in namespaces of their own behind the real gateway, every frame of both links recorded."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from django.db import connections

from inference_worker.contract.messages import JobMessage
from inference_worker.contract.signing import unb64
from infra.local import valkey as local_valkey
from infra.local.valkey import Valkey
from kasbah.common import rls
from kasbah.serving.models import Job
from tests.factories import Household
from tests.gateway import stack as stacks
from tests.gateway.calls import CHAT, chat
from tests.gateway.stack import Stack
from tests.integration.capture import Capture, Held, capture, forms
from tests.integration.namespaces import Namespace, namespaces

HOME, ABROAD = "paris", "tokyo"
CONFINED, FREE = "confined", "free"
AT_ONCE = 16
FRAGMENT = 32  # bytes of a ticket's signature or a sealed payload that are looked for, at several places of it
ENVELOPE = re.compile(rb'"body": ?"([A-Za-z0-9+/=]{200,})"')

# The gateway without its filter of compliant sites: whatever the policy says, every site of the deployment is taken.
UNFILTERED = """
import sys
import django, msgspec; django.setup()
from kasbah.gateway import admission
honest = admission.decide_raised
def decide(policy, declared, question):
    return msgspec.structs.replace(honest(policy, declared, question), sites=tuple(site.id for site in question.sites))
admission.decide_raised = decide
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Call:
    """What a client asked and got; a stream that ended with an error has the status 500."""

    who: str
    data_class: str
    status: int
    code: str
    site: str
    request_id: str


@dataclass
class Sites:
    """The running platform, its links and the recordings of them."""

    stack: Stack
    places: Mapping[str, Namespace]
    recordings: Mapping[str, Capture]
    clients: Mapping[str, Household]
    folder: Path
    calls: list[Call] = field(default_factory=list)

    def ask(self, number: int, *, url: str = "", who: str = "") -> Call:
        """One request: two of three are the confined tenant's, and some of those of a class that he may not send."""
        who = who or (FREE if number % 3 == 0 else CONFINED)
        data_class = "secret" if who == CONFINED and number % 10 == 1 else "confidential"
        body = chat(f"{marker(number)} {'words ' * 200}[[tokens=4 delay=0.01]]", stream=number % 2 == 0)
        headers = {
            "authorization": f"Bearer {self.clients[who].key_text}",
            "kasbah-data-class": data_class,
            "kasbah-data-tags": "personal",
        }
        answer = httpx.post(f"{url or self.stack.web.url}{CHAT}", json=body, headers=headers, timeout=60)
        site, request_id = answer.headers.get("kasbah-site", ""), answer.headers["x-request-id"]
        call = Call(who, data_class, *_status(answer), site, request_id)
        self.calls.append(call)
        return call

    def ask_all(self, numbers: range, strikes: Mapping[int, Callable[[], None]]) -> list[Call]:
        """Many at once; each strike is carried out once so many of them are answered."""
        begun, failed = len(self.calls), list[BaseException]()

        def strike() -> None:
            try:
                for count in sorted(strikes):
                    while len(self.calls) - begun < count:
                        time.sleep(0.02)
                    strikes[count]()
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=strike)
        thread.start()
        with ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(self.ask, numbers))
        thread.join()
        if failed:
            raise failed[0]
        return self.calls[begun:]

    def restart(self, slug: str, name: str = "worker") -> None:
        """SIGKILL to a worker, and start it again with the identity that it had."""
        self.kill(slug, name)
        self.stack.start_worker(slug, name)

    def kill(self, slug: str, name: str = "worker") -> None:
        """SIGKILL to a worker; its engines end with it."""
        worker = self.stack.workers.pop(f"{name}-{slug}")
        worker.kill()
        worker.wait()

    def jobs(self, who: str) -> list[Job]:
        """Rows of a tenant's jobs, oldest first."""
        tenant = self.clients[who].tenant
        with rls.tenant_scope(tenant.id):
            return list(Job.objects.filter(tenant=tenant).select_related("site").order_by("id"))

    def held(self, slug: str) -> Held:
        """Cut a link and read what it carried. Fails unless the kernel counted exactly what was recorded."""
        self.places[slug].cut()
        counted, recorded = self.places[slug].counters(), self.recordings[slug].stop()
        assert recorded == counted, f"the kernel counted {counted} packets and bytes, {recorded} were recorded"
        return Held.read(self.folder / slug)


def marker(number: int) -> str:
    """What makes the text of one request unlike every other."""
    return f"prompt-{number:06d}-{random.Random(number).getrandbits(96):024x}"


def _status(answer: httpx.Response) -> tuple[int, str]:
    if answer.status_code != 200:
        return answer.status_code, str(answer.json()["error"]["code"])
    if '{"error":' not in answer.text:
        return 200, ""
    last = [line for line in answer.text.split("\n") if '{"error":' in line][-1]
    return 500, str(json.loads(last.removeprefix("data: "))["error"]["code"])


def messages(held: Held) -> dict[str, JobMessage]:
    """The Celery messages in what a link carried, by job."""
    found = {}
    for match in ENVELOPE.finditer(held.streams):
        message = msgspec.convert(json.loads(b64decode(match[1]))[0][0], JobMessage)
        found[message.job] = message
    return found


def needles(message: JobMessage, request_id: str) -> dict[str, set[bytes]]:
    """What there is to look for of one job, in all the forms that it may have on a wire; by kind and job."""
    payload, signature = unb64(message.payload), message.ticket.rpartition(".")[2].encode()
    size = len(payload)
    pieces = {
        "id": [message.job.encode()],
        "request": [request_id.encode()],
        # Its signature: the rest names models and sites, which other tickets name too.
        "ticket": [signature[:FRAGMENT], signature[-FRAGMENT:]],
        "payload": [payload[at : at + FRAGMENT] for at in (size // 3, size // 2, size - FRAGMENT)],
    }
    return {f"{kind} {message.job}": set().union(*map(forms, parts)) for kind, parts in pieces.items()}


def connected_to(pid: int) -> set[str]:
    """Addresses and ports at the other end of a process's TCP connections (proc(5), /proc/<pid>/net/tcp)."""
    own = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        part = line.split()
        address, port = part[2].split(":")
        if f"socket:[{part[9]}]" in own and int(port, 16):
            octets = bytes.fromhex(address)[::-1]  # the kernel prints the number as this machine keeps it
            found.add(f"{'.'.join(map(str, octets))}:{int(port, 16)}")
    return found


@contextlib.contextmanager
def store_in(place: Namespace, home: Path, slug: str) -> Iterator[Valkey]:
    """A site's store inside its namespace, reached over the link; what is accepted lies on its disk."""
    server = local_valkey.prepare(home, f"site-{slug}", aof=True, settings={"bind": f"127.0.0.1 {place.far}"})
    server.launcher, server.host = place.launcher, place.far
    server.start()
    try:
        yield server
    finally:
        server.stop()


def confined_to(jurisdiction: str) -> dict[str, Any]:
    """A policy that keeps a tenant's data in one country; the class `secret` is allowed nowhere."""
    rule = {
        "id": "at-home", "effect": "allow", "data_classes": ["public", "internal", "confidential"],
        "models": ["*"], "tags": ["*"], "jurisdictions": [jurisdiction],
    }  # fmt: skip
    return {"version": 1, "rules": [rule]}


@contextlib.contextmanager
def two_sites(folder: Path) -> Iterator[Sites]:
    """Both sites up: two workers at home, one abroad; both links recorded from before they came up."""
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(namespaces([HOME, ABROAD]))
        recordings = {slug: stack.enter_context(capture(place.link, folder / slug)) for slug, place in places.items()}
        for place in places.values():
            place.connect()

        def open_store(home: Path, slug: str) -> AbstractContextManager[Valkey]:
            return store_in(places[slug], home, slug)

        launchers = {slug: place.launcher for slug, place in places.items()}
        running = stack.enter_context(
            stacks.running(folder, {HOME: "FR", ABROAD: "JP"}, open_store=open_store, launchers=launchers)
        )
        running.start_worker(HOME, "second")
        clients = {CONFINED: running.household(confined_to("FR")), FREE: running.household()}
        for client in clients.values():
            running.await_capacity(client.key_text)
        yield Sites(running, places, recordings, clients, folder)


def offline(*arguments: str) -> str:
    """Run Python on a machine without any network, as an auditor may; its output."""
    command = ["unshare", "--net", sys.executable, "-I", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
