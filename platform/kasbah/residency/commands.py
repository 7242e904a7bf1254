"""What commands share that read policies."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError

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
