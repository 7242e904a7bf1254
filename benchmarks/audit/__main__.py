"""`python -m benchmarks.audit`: what recording, sequencing and verifying cost, beside the design's goals.

A PostgreSQL of its own, which waits for the disk as in production; everything through the platform's own code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.audit import proving, recording
from benchmarks.table import show
from infra.local import secrets
from infra.local.postgres import Postgres, postgres


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (%(default)s)")
    parser.add_argument("--events", type=int, default=200_000, help="to export and verify (%(default)s)")
    parser.add_argument("--threads", type=int, default=8, help="that record at once (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ksb-bench-") as folder, _installation(Path(folder)):
        import django

        django.setup()
        rows = [
            recording.one_a_commit(options.seconds, options.threads),
            recording.in_groups(options.seconds),
            recording.added_by_the_intent(options.seconds),
            recording.sequencing(options.events),
            recording.behind(options.seconds),
            *proving.verifying(Path(folder)),
        ]
    show("Audit", ["measure", "figure", "goal", "ratio"], rows)


@contextlib.contextmanager
def _installation(home: Path) -> Iterator[Postgres]:
    """A migrated database, and settings that name it."""
    with postgres(home) as server:
        place = secrets.write_all(
            home,
            database_url=server.app_url,
            owner_database_url=server.owner_url,
            redis_url="redis://127.0.0.1:1/0",
            bind="127.0.0.1:1",
        )
        os.environ.update(
            DJANGO_SETTINGS_MODULE="kasbah.config.settings",
            KASBAH_SECRETS_DIR=str(place),
            KASBAH_AUDIT_DIR=str(home / "audit"),
        )
        migrate = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity", "0"]
        subprocess.run(migrate, check=True, env=os.environ | {"KASBAH_OWNER_DATABASE_URL": server.owner_url})
        yield server


if __name__ == "__main__":
    main()
