"""Keeps the engine of one deployment alive: verify, start, probe, watch, start again.

An engine is ready when it has generated a token, not when it says so. It is started again after it died, hung or took
more memory than allowed; the pause doubles from 1 to 60 seconds and starts over once a run was stable.

Memory is limited by watching what the engine's processes hold (RssAnon) rather than by RLIMIT_AS or RLIMIT_DATA: CUDA
and torch reserve far more address space than they use, a limit on it fails in odd places, and it holds for each process
alone. Against a sudden jump, the kernel is told to take the engine first (keeper.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from inference_worker.contract import manifest
from inference_worker.contract.bounds import line
from inference_worker.contract.egress import Attempt
from inference_worker.contract.messages import Assigned, Served
from inference_worker.engine import flags, launch, probe
from inference_worker.engine.client import EngineClient, EngineLost
from inference_worker.engine.grammars import GrammarGuard
from inference_worker.engine.process import EngineProcess, last_words
from inference_worker.engine.refusals import Refusals

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE, STABLE = 1.0, 60.0, 120.0
WATCH_INTERVAL = 1.0
HEALTH_TIMEOUT = 10.0
HEALTH_MISSES = 3
LONGEST_SOCKET = 100  # unix(7): 108 bytes with the closing zero


class EngineFailed(Exception):
    """A run of the engine ended or must end; the text says why, for people."""


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine of a worker is started with; times in seconds."""

    python: Path
    models: Path
    cache: Path
    logs: Path
    run_dir: Path | None
    gpu: bool
    memory_bytes: int
    log_bytes: int
    start_seconds: float
    probe_seconds: float
    hung_seconds: float


class Engine:
    """The engine of one deployment. `on_change` is called when it becomes ready or ceases to be.

    What its guard refuses is counted in `attempts`.
    """

    def __init__(
        self, assigned: Assigned, means: Means, on_change: Callable[[], None], attempts: dict[str, Attempt]
    ) -> None:
        self.assigned = assigned
        self.running = 0  # jobs
        self.idle = asyncio.Event()
        self.idle.set()
        self._doubted = asyncio.Event()
        self.digest = ""  # of what is loaded; "" while nothing is
        self.version = "vllm"
        self.client: EngineClient | None = None
        self.grammars: GrammarGuard | None = None
        self.refusals = Refusals(attempts)
        self._means = means
        self._on_change = on_change
        self._state, self._detail = "verifying", ""
        self._verified: object = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return self._state == "ready"

    @property
    def capacity(self) -> int:
        """Jobs at once."""
        return self.assigned.engine.max_num_seqs

    def served(self) -> Served:
        """For the report."""
        return Served(
            deployment=self.assigned.deployment,
            model_digest=self.digest or self.assigned.model_digest,
            state=self._state,
            running=self.running,
            capacity=self.capacity,
            detail=line(self._detail),
        )

    def begin_job(self) -> None:
        """A job goes to the engine."""
        self.running += 1
        self.idle.clear()

    def end_job(self) -> None:
        """It came back."""
        self.running -= 1
        if self.running == 0:
            self.idle.set()

    def doubt(self) -> None:
        """A job lost its connection: no more go there until it has generated a token again."""
        if self.ready:
            self._set("starting", "a connection was lost")
            self._doubted.set()

    def start(self) -> None:
        """Begin; goes on until `stop`."""
        self._task = asyncio.create_task(self._run(), name=f"engine {self.assigned.name}")

    def retire(self) -> None:
        """Take no more jobs; those that run go on."""
        self._set("stopping")

    async def stop(self) -> None:
        """End the engine and everything of it."""
        self.retire()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _set(self, state: str, detail: str = "") -> None:
        was, self._state, self._detail = self.ready, state, detail
        if was != self.ready:
            self._on_change()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._once()
            except (EngineFailed, EngineLost, manifest.ManifestMismatch, flags.FlagRefused, OSError) as error:
                reason = str(error)
            except Exception as error:
                log.exception("engine %s: the supervisor failed", self.assigned.name)
                reason = type(error).__name__
            if time.monotonic() - began > STABLE:
                pause = FIRST_PAUSE
            log.error("engine %s: %s; again in %.0f s", self.assigned.name, reason, pause)
            self._set("failed", reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _once(self) -> None:
        """One run, from the files on disk to its end, which is always an exception."""
        self._set("verifying")
        folder = self._means.models / self.assigned.model_digest
        digest = await self._verify(folder)
        self._set("starting")
        home = Path(tempfile.mkdtemp(prefix="ksb-", dir=self._means.run_dir))  # mode 0700, and short for the socket
        process: EngineProcess | None = None
        try:
            process = await self._start(folder, home)
            self.client = EngineClient(home / "s")
            self.grammars = GrammarGuard(self._means.python, folder, self._environment(home))
            await self._await_ready(process, self.client)
            self.digest = digest
            self._doubted.clear()
            log.info("engine %s is ready (%s)", self.assigned.name, self.version)
            self._set("ready")
            await self._watch(process, self.client)
        finally:
            self.digest = ""
            if self.ready:
                self._set("starting")
            if self.client is not None:
                self.client.close()
                self.client = None
            if self.grammars is not None:
                await asyncio.shield(self.grammars.stop())
                self.grammars = None
            if process is not None:
                await asyncio.shield(process.stop())
            self.refusals.look()
            shutil.rmtree(home, ignore_errors=True)

    async def _verify(self, folder: Path) -> str:
        """Digest of the files, each read and compared. Not read again while no file's change time moved."""
        wanted = self.assigned.model_digest
        stamp = await asyncio.to_thread(_stamp, folder)
        if stamp != self._verified:
            self._verified = None
            total = sum(entry.size for entry in self.assigned.manifest) or 1
            done = 0

            def progress(count: int) -> None:
                nonlocal done
                if self._state == "stopping":  # a thread cannot be cancelled
                    raise EngineFailed("stopped while verifying")
                done += count
                self._detail = f"{100 * done // total} % of {total / 1e9:.2f} GB verified"

            digest = await asyncio.to_thread(manifest.verify, folder, self.assigned.manifest, progress)
            if digest != wanted:
                raise EngineFailed(f"the manifest has the digest {digest}, the assignment names {wanted}")
            self._verified = stamp
        return wanted

    async def _start(self, folder: Path, home: Path) -> EngineProcess:
        means = self._means
        if len(str(home / "s")) > LONGEST_SOCKET:
            raise EngineFailed(f"{home} is too long for a socket's path; give a shorter --run-dir")
        given = flags.arguments(self.assigned, folder, home / "s", gpu=means.gpu)
        self.refusals.follow(home / "egress")
        for path in (means.cache, means.logs, home / "home"):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return await EngineProcess.start(
            [str(means.python), launch.__file__, *given],
            environment=self._environment(home),
            cwd=home / "home",
            log=self._log,
            log_bytes=means.log_bytes,
        )

    def _environment(self, home: Path) -> dict[str, str]:
        """Of the engine's processes; what their guards refuse goes to one journal."""
        means = self._means
        environment = flags.environment(self.assigned.engine, home / "home", means.cache, gpu=means.gpu)
        return environment | {launch.JOURNAL: str(home / "egress")}

    @property
    def _log(self) -> Path:
        return self._means.logs / f"engine-{self.assigned.deployment}.log"

    async def _await_ready(self, process: EngineProcess, client: EngineClient) -> None:
        deadline = time.monotonic() + self._means.start_seconds
        tries = 0
        while not await probe.healthy(client, HEALTH_TIMEOUT):
            if not process.running:
                status = await process.wait()
                raise EngineFailed(f"the engine ended with status {status} while starting: {last_words(self._log)}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"the engine was not ready within {self._means.start_seconds:.0f} s")
            tries += 1
            if tries % 10 == 0:
                self._check_memory(process)
            await asyncio.sleep(0.1)
        self.version = await probe.version(client)
        await probe.generate(client, self.assigned.name, self._means.hung_seconds)

    async def _watch(self, process: EngineProcess, client: EngineClient) -> None:
        """Until it dies, hangs or grows too large."""
        ended = asyncio.create_task(process.wait())
        hung = asyncio.create_task(self._probe(client))
        try:
            while True:
                await asyncio.wait((ended, hung), timeout=WATCH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    raise EngineFailed(f"the engine ended with status {ended.result()}")
                if hung.done():
                    hung.result()
                self._check_memory(process)
                self.refusals.look()
        finally:
            hung.cancel()
            ended.cancel()
            await asyncio.gather(hung, ended, return_exceptions=True)
            if process.running and not hung.cancelled():
                process.kill()  # what hangs does not hear SIGTERM

    def _check_memory(self, process: EngineProcess) -> None:
        used, allowed = process.memory(), self._means.memory_bytes
        if used > allowed:
            raise EngineFailed(f"the engine holds {used / 2**30:.1f} GiB of memory, {allowed / 2**30:.1f} are allowed")

    async def _probe(self, client: EngineClient) -> None:
        """Ask for a token while it is idle, for its health while it works. Raises EngineFailed when it hangs."""
        misses = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._means.probe_seconds):
                    await self._doubted.wait()
            if self.running == 0 or self._doubted.is_set():
                await probe.generate(client, self.assigned.name, self._means.hung_seconds)
                misses = 0
                if self._doubted.is_set():
                    self._doubted.clear()
                    self._set("ready")
                continue
            misses = 0 if await probe.healthy(client, HEALTH_TIMEOUT) else misses + 1
            if misses >= HEALTH_MISSES:
                raise EngineFailed("the engine stopped answering while it worked")


def _stamp(folder: Path) -> object:
    """Changes whenever a file is added, removed, replaced or written (ctime cannot be set back by its owner)."""
    if not folder.is_dir():
        raise EngineFailed(f"the model folder {folder.name} is not in the models folder; copy it there")
    found = []
    for path in manifest.files_of(folder):
        status = path.stat()
        found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found
