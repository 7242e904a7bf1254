"""What commands share that read policies."""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError

from kasbah.identity.models import Tenant
from kasbah.residency.models import Policy


def read_document(path: str) -> dict[str, Any]:
    """The JSON object in a file; `-` is standard input. Raises CommandError."""
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the name is what the person typed
                text = file.read()
        document = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Cannot read {path}: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CommandError(f"{path} must hold a JSON object, as docs/administrator/policies.md shows.")
    return document


def facts(policy: Policy) -> dict[str, Any]:
    """What a command shows of a policy."""
    return {"id": policy.id, "version": policy.version, "state": policy.state, "activated_at": policy.activated_at}


def find_policy(tenant: Tenant, named: str) -> Policy:
    """A version of the tenant whose scope this is, by its id or number. Raises CommandError."""
    try:
        chosen: dict[str, Any] = {"version": int(named)} if named.isdecimal() else {"pk": UUID(named)}
    except ValueError as error:
        raise CommandError(f"--policy: {named!r} is neither an id nor a number.") from error
    found = Policy.objects.filter(tenant=tenant, **chosen).first()
    if found is None:
        raise CommandError(f"Tenant {tenant.slug} has no policy {named}.")
    return found
