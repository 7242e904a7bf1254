"""Known attacks on the database that are not shown elsewhere (docs/auditor/attacks.md)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from kasbah.audit.log import sequencer
from kasbah.audit.log.memory import SignerRefuses
from tests.audit.logs import run, write

pytestmark = pytest.mark.django_db(transaction=True)
TABLES = ("intake", "leaf", "checkpoint", "cosignature", "pruned", "keysuccession")


def test_a_superuser_empties_the_log(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    write(tenant, 5)
    run()
    execute: Any = superuser.execute
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute("TRUNCATE audit_intake")  # the trigger holds for a superuser too
    for table in TABLES:
        execute(f"ALTER TABLE audit_{table} DISABLE TRIGGER audit_{table}_insert_only")
    execute("TRUNCATE audit_intake, audit_log CASCADE")
    for table in TABLES:
        execute(f"ALTER TABLE audit_{table} ENABLE ALWAYS TRIGGER audit_{table}_insert_only")
    write(tenant, 3)
    with pytest.raises(SignerRefuses, match="older than the log"):
        sequencer.sequence()
