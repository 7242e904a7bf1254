"""What stands in the way of a start, each with what to do about it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

PYTHON = (3, 11)
MIB = 2**20
CGROUP = Path("/sys/fs/cgroup")


class Problem(RuntimeError):
    """Something that the person at the keyboard can put right; the message says what, why and how to go on."""


class WrongWord(Problem):
    """A setting or an argument that is not what it must be."""


def parse_bind(bind: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises WrongWord."""
    host, _, port = bind.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise WrongWord(
            f"{bind[:100]!a} is not an address to listen on (--bind, KASBAH_BIND, BIND); write it like 127.0.0.1:8080"
        )
    return host.strip("[]"), int(port)


def check_platform() -> None:
    """Linux on x86_64 or aarch64: the embedded servers and the engine have wheels for no other."""
    system, machine = os.uname().sysname, os.uname().machine
    if system != "Linux" or machine not in {"x86_64", "aarch64"}:
        raise Problem(
            f"Kasbah's one-machine installation runs on Linux on x86_64 or aarch64; this is {system} on {machine}.\n"
            "Use a Linux machine or virtual machine, or the containers (docker-compose.yml)."
        )


def check_python(interpreter: str = sys.executable) -> None:
    """The interpreter can make virtual environments (Debian and Ubuntu ship that apart)."""
    probe = subprocess.run([interpreter, "-c", "import venv, ensurepip"], capture_output=True, check=False)
    if probe.returncode != 0:
        version = ".".join(map(str, PYTHON))
        raise Problem(
            f"{interpreter} cannot make virtual environments: the modules venv or ensurepip are missing.\n"
            f"On Debian or Ubuntu: apt install python{version}-venv. Then run the same command again."
        )


def check_disk(folder: Path, needed_mib: int, what: str) -> None:
    """`folder` (or its nearest parent) has `needed_mib` MiB free for `what`."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free // MIB
    if free < needed_mib:
        raise Problem(
            f"The disk of {place} has {free} MiB free, and {what} needs {needed_mib} MiB.\n"
            "Free some space, or set KASBAH_HOME to a folder on a larger disk."
        )


def available_memory_mib() -> int:
    """Memory that programs can still take, in MiB (MemAvailable; the control group's limit when it is lower)."""
    amounts = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        amounts[name] = int(rest.split()[0]) // 1024
    available = amounts["MemAvailable"]
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return available
    cache = int(statistics.get("inactive_file", 0))  # given up when memory is wanted
    return available if limit == "max" else min(available, (int(limit) - used + cache) // MIB)


def check_memory(needed_mib: int) -> None:
    """Enough memory is free for the engine and everything beside it."""
    available = available_memory_mib()
    if available < needed_mib:
        raise Problem(
            f"{available} MiB of memory are available, and the demo needs {needed_mib} MiB"
            " (the inference engine takes most of it).\n"
            "Close other programs, or use a machine with more memory."
        )


def check_port(host: str, port: int) -> None:
    """Nothing listens on `port` yet, and we may."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} is used by another program{_listener(port)}",
            errno.EACCES: f"port {port} is reserved for root; take one above 1023",
            errno.EADDRNOTAVAIL: f"{host} is not an address of this machine",
        }
        raise Problem(
            f"Kasbah cannot listen on {host}:{port}: {reasons.get(error.errno or 0, error.strerror)}.\n"
            f"End that program, or choose another port: make demo BIND={host}:{port + 1}"
        ) from error


def _listener(port: int) -> str:
    """` (pid 123, nginx)` where /proc shows who listens; only one's own processes are visible."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        # local address, remote address, state (0A = listening), ..., inode: proc(5)
        fields = [row.split() for row in rows]
        inodes |= {row[9] for row in fields if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(entry.readlink()) in {f"socket:[{inode}]" for inode in inodes}:
                pid = entry.parts[2]
                return f" (pid {pid}, {Path(f'/proc/{pid}/comm').read_text().strip()})"
        except OSError:
            continue
    return ""
