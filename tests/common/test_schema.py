"""What the migrations leave in the database: forced row-level security, least grants, announcements, references."""

from __future__ import annotations

import psycopg
import pytest
from django.apps import apps
from django.db import models

pytestmark = pytest.mark.django_db


def test_every_tenant_table_forces_row_level_security(owner: psycopg.Connection) -> None:
    forced = {
        name for (name,) in owner.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
    }
    tenant_tables = {model._meta.db_table for model in apps.get_models() if _has_tenant(model)}
    assert len(tenant_tables) >= 10
    assert tenant_tables | {"identity_tenant"} == forced


def _has_tenant(model: type[models.Model]) -> bool:
    return any(field.name in {"tenant", "tenant_id"} for field in model._meta.get_fields())
