"""What the commands list: tenants, projects, members, people, keys, limits and usage; and that tables fit a screen."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.commands import WIDTH, lines, table
from kasbah.common.ids import uuid7
from kasbah.identity.models import ApiKey, Role
from kasbah.metering.models import Limit, Usage
from tests import factories

pytestmark = pytest.mark.django_db


def listed(name: str, *arguments: Any) -> list[dict[str, Any]]:
    out = StringIO()
    call_command(name, *map(str, arguments), "--json", stdout=out)
    found: list[dict[str, Any]] = json.loads(out.getvalue())
    return found


def shown(name: str, *arguments: Any) -> str:
    out = StringIO()
    call_command(name, *map(str, arguments), stdout=out)
    return out.getvalue()


@pytest.fixture
def finance() -> factories.Household:
    return factories.household()


@pytest.fixture
def hospital() -> factories.Household:
    """Another tenant, nothing of which may be listed with the first one's."""
    return factories.household()


def test_tenants_with_what_each_has(finance: factories.Household, hospital: factories.Household) -> None:
    factories.project(finance.tenant)
    rows = {row["slug"]: row for row in listed("tenants")}
    assert set(rows) >= {finance.tenant.slug, hospital.tenant.slug}
    row = rows[finance.tenant.slug]
    assert (row["projects"], row["members"], row["keys"], row["id"]) == (2, 1, 1, str(finance.tenant.id))


def test_projects_of_one_tenant(finance: factories.Household, hospital: factories.Household) -> None:
    (row,) = listed("projects", "--tenant", finance.tenant.slug)
    assert (row["slug"], row["keys"], row["id"]) == (finance.project.slug, 1, str(finance.project.id))


def test_members_of_one_tenant_by_role(finance: factories.Household, hospital: factories.Household) -> None:
    auditor = factories.user()
    factories.membership(finance.tenant, auditor, Role.AUDITOR)
    emails = {row["email"]: row["role"] for row in listed("members", "--tenant", finance.tenant.id)}
    assert emails == {finance.admin.email: "tenant_admin", auditor.email: "auditor"}
    assert [row["email"] for row in listed("members", "--tenant", finance.tenant.slug, "--role", "auditor")] == [
        auditor.email
    ]
    assert "Nobody." in shown("members", "--tenant", finance.tenant.slug, "--role", "operator")


def test_users_with_their_roles(finance: factories.Household) -> None:
    rows = {row["email"]: row for row in listed("users", "--email", finance.admin.email[:20].upper())}
    assert rows[finance.admin.email]["tenants"] == [f"{finance.tenant.slug} (tenant_admin)"]
    assert "Nobody" in shown("users", "--email", "no-such-address")


def test_keys_in_use_or_all_and_never_a_secret(finance: factories.Household, hospital: factories.Household) -> None:
    old, _ = factories.api_key(finance.project)
    gone, _ = factories.api_key(finance.project)
    with rls.tenant_scope(finance.tenant.id):
        ApiKey.objects.filter(pk=old.pk).update(expires_at=timezone.now() - timedelta(days=1))
        ApiKey.objects.filter(pk=gone.pk).update(revoked_at=timezone.now())
    tenant = ("--tenant", finance.tenant.slug)
    assert [row["id"] for row in listed("keys", *tenant)] == [str(finance.key.id)]
    states = {row["id"]: row["state"] for row in listed("keys", *tenant, "--all", "--project", finance.project.slug)}
    assert states == {str(finance.key.id): "in use", str(old.id): "expired", str(gone.id): "revoked"}
    text = shown("keys", *tenant, "--all")
    assert finance.key_text not in text
    assert finance.key.digest.hex() not in text


def test_limits_say_of_what_they_are(finance: factories.Household, hospital: factories.Household) -> None:
    with rls.tenant_scope(finance.tenant.id):
        for scope, subject in (("project", finance.project.id), ("tenant", finance.tenant.id)):
            Limit.objects.create(tenant=finance.tenant, scope=scope, subject_id=subject, requests_per_minute=60)
    rows = listed("limits", "--tenant", finance.tenant.slug)
    assert [(row["scope"], row["of"]) for row in rows] == [
        ("tenant", finance.tenant.slug),
        ("project", finance.project.slug),
    ]
    assert "no limit of its own" in shown("limits", "--tenant", hospital.tenant.slug)


def test_usage_in_groups_and_periods(finance: factories.Household, hospital: factories.Household) -> None:
    for home, tokens in ((finance, 7), (finance, 5), (hospital, 1000)):
        with rls.tenant_scope(home.tenant.id):
            Usage.objects.create(
                id=uuid7(),
                tenant=home.tenant,
                project=home.project,
                api_key=home.key,
                deployment="mini",
                endpoint="/v1/chat/completions",
                prompt_tokens=tokens,
                completion_tokens=1,
            )
    tenant = ("--tenant", finance.tenant.slug)
    today = timezone.now().date().isoformat()
    sums = {"requests": 2, "prompt_tokens": 12, "completion_tokens": 2}
    assert listed("usage", *tenant) == [{"day": today, **sums}]
    assert listed("usage", *tenant, "--by", "project") == [{"project": finance.project.slug, **sums}]
    (by_key,) = listed("usage", *tenant, "--by", "api_key")
    assert by_key["api_key"] == f"{finance.key.name} ({finance.key.id})"
    assert listed("usage", *tenant, "--until", "2020-01-01") == []
    with pytest.raises(CommandError, match="--until: The period ends before it begins"):
        shown("usage", *tenant, "--since", "2026-02-01", "--until", "2026-01-01")


LONG = {
    "id": uuid7(),
    "version": 3,
    "loosens": ["The rule 'letters' would allow more: " + "confidential, " * 40],
    "comparison": "ab" * 16,
    "reason": "Because " * 60,
    "at": timezone.now(),
}


def test_tables_fit_a_screen_and_keep_ids_whole() -> None:
    text = table([LONG, LONG | {"reason": ""}], "")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert len(text.splitlines()) == 3
    assert text.count(str(LONG["id"])) == text.count("ab" * 16) == 2
    assert "…" in text
    narrow = table([{"slug": "paris", "state": "active"}], "")
    assert narrow == "SLUG   STATE\nparis  active"  # nothing is cut that fits


def test_rows_with_too_many_columns_become_blocks() -> None:
    wide = {f"column_{number}": "x" * 30 for number in range(20)}
    assert table([wide, wide], "") == lines(wide) + "\n\n" + lines(wide)


def test_policies_of_long_reasons_fit(finance: factories.Household) -> None:
    factories.active_policy(finance.tenant, {"version": 1, "rules": []})
    text = shown("policies", "--tenant", finance.tenant.slug)
    assert max(map(len, text.splitlines())) <= WIDTH
