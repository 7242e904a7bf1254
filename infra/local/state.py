"""`status` and `clean`: what runs, and the end of all data. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path

from infra.local import processes
from infra.local.home import home
from infra.local.terminal import say


def status() -> int:
    """Print what runs; 0 when it runs, 3 when it does not (as service scripts do: LSB init actions)."""
    place = home()
    supervisor = place.running()
    if supervisor is None:
        say(f"Kasbah does not run from {place.path}." if place.path.exists() else f"There is no data in {place.path}.")
        return 3
    say(f"Kasbah runs from {place.path} (pid {supervisor}).")
    for note in sorted(place.run.glob("*.pid")):
        pid = processes.read_pid(note)
        state = f"pid {pid:>7}  {resident_mib(pid):>6} MiB" if pid else "is being started again"
        say(f"  {note.stem:<14} {state}   log: {place.logs / (note.stem + '.log')}")
    try:
        address = json.loads((place.run / "demo.json").read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError):
        return 0
    say(f"  address        {address}")
    return 0


def resident_mib(pid: int) -> int:
    """Resident memory of `pid` and its descendants, in MiB (proc(5), statm field 2, 4 KiB pages)."""
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        waiting.extend(processes.children(process))
        try:
            total += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        except OSError:
            continue
    return total * 4096 // 2**20


def clean() -> int:
    """Remove the data folder."""
    place = home()
    say(f"Removed {place.path}." if place.remove() else f"There is nothing at {place.path}.")
    return 0
