"""Exporting a log, checking the export, and proofs of single events."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

from benchmarks.audit.rows import BACKLOG, rate_row

# Runs a program and says how much memory it took at most, in MiB.
MEASURED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def verifying(home: Path) -> list[list[str]]:
    """An export, checked by the program that it brings, in a process of its own."""
    from kasbah.audit.export.verifier.joined import program
    from kasbah.audit.services import exports
    from kasbah.common import rls
    from kasbah.identity.services import system

    tenant = BACKLOG
    path = home / "export.zip"
    started = time.monotonic()
    with rls.tenant_scope(tenant), path.open("wb") as file:
        actor = system("benchmark", "process")
        work, choice, _ = exports.begin(home / "export.part", exports.Wanted(tenant_id=tenant), actor)
        with closing(work):
            done = exports.export(file, work, choice, actor)
    written = done.end / (time.monotonic() - started)
    verifier = str(home / "verify.py")
    Path(verifier).write_text(program(), encoding="utf-8")
    key = exports.log_key(done.origin).vkey()
    command = [sys.executable, "-I", "-S", "-c", MEASURED, verifier, str(path), "--key", key]
    started = time.monotonic()
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = done.end / (time.monotonic() - started)
    return [
        rate_row("export, one pass", written, "events/s", 0),
        rate_row("verify.py", rate, "events/s", 50_000),
        _memory("export, memory at most", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 512),
        ["inclusion proof, bytes at most", f"{_longest_proof(tenant)} bytes", "2048", ""],
        _memory("verify.py, memory at most", int(said.stderr), 256),
    ]


def _memory(what: str, used: int, goal: int) -> list[str]:
    return [what, f"{used} MiB", f"{goal} MiB", f"{used / goal:.2f}"]


def _longest_proof(tenant: UUID) -> int:
    """Of a hundred events, whichever come: a `.tlog-proof` with its checkpoint."""
    from kasbah.audit.log.models import Leaf
    from kasbah.audit.log.proofs import inclusion
    from kasbah.common import rls

    with rls.tenant_scope(tenant):
        size = Leaf.objects.filter(tenant_id=tenant).count()
        chosen = Leaf.objects.filter(tenant_id=tenant, index__in=random.sample(range(size), min(100, size)))
        return max(len(inclusion(tenant, leaf.event_id).text().encode()) for leaf in chosen)
