"""What changed between two documents, rule by rule. It is for people; what it loosens is told by `loosening`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Rules `added` and `removed` whole, `changed` as `{id, before, after}`, other fields as `settings`.

    Rules are known by their ids. A field that a document does not have is null. The order of rules decides nothing.
    """
    before = {rule["id"]: rule for rule in old.get("rules", [])}
    after = {rule["id"]: rule for rule in new.get("rules", [])}
    return {
        "added": [rule for name, rule in after.items() if name not in before],
        "removed": [rule for name, rule in before.items() if name not in after],
        "changed": [
            {"id": name, "before": before[name], "after": rule}
            for name, rule in after.items()
            if name in before and before[name] != rule
        ],
        "settings": [
            {"field": name, "before": old.get(name), "after": new.get(name)}
            for name in sorted((old.keys() | new.keys()) - {"rules"})
            if old.get(name) != new.get(name)
        ],
    }
