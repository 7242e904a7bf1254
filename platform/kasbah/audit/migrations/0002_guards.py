"""Guards of the intake: row-level security, commit order, insert-only for every role."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial"), ("identity", "0002_guards")]
    operations = [
        schema.ForceRowLevelSecurity("audit_intake"),
        schema.AddCommitOrder("audit_intake"),
        schema.InsertOnly("audit_intake"),
        schema.Grant("audit_intake", "SELECT, INSERT"),
    ]
