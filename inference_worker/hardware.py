"""What the machine is, for people and for placement; read once at start."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from inference_worker.contract.bounds import line
from inference_worker.contract.messages import Gpu, Hardware

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def describe() -> Hardware:
    """The processor's model, usable cores, memory of the machine or its container, and GPUs."""
    return Hardware(cpu=line(_cpu()), cores=len(os.sched_getaffinity(0)), memory_bytes=memory_bytes(), gpus=_gpus())


def memory_bytes() -> int:
    """Memory that may be used: the machine's, or less where a control group says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUP_LIMITS:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _cpu() -> str:
    try:
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _gpus() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for row in answer.splitlines():
        name, _, mebibytes = row.rpartition(",")
        if mebibytes.strip().isdigit():
            found.append(Gpu(name=line(name), memory_bytes=int(mebibytes) * 2**20))
    return found
