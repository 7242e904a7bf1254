"""The views of an export, read by programs that nobody here wrote; and what the report counts."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest

from kasbah.audit.export.verifier import parquet
from kasbah.audit.export.verifier.events import check_part
from kasbah.audit.export.verifier.tally import LISTED, SECTIONS, Tally, sections_of
from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.services.events import EventType
from tests.audit.bundles import ORIGIN, TENANT, Signed, event, signed

REQUEST: dict[str, Any] = {
    "type": "inference.outcome",
    "request_id": "r-é日本",
    "intent": "i1",
    "reason": "=1+1",
    "policy": {"id": "p1", "version": 3, "decision": "allow", "rule": "home"},
    "model": {"name": "small", "digest": "ab" * 32},
    "tokens": {"prompt": 2**40, "completion": 7, "exact": True},
    "site": "s1",
    "worker": "w1",
    "details": {"data_class": "internal"},
}


def part(log: Signed, path: str, start: int = 0, end: int | None = None) -> bytes:
    with zipfile.ZipFile(io.BytesIO(log.bundle(start, end))) as archive:
        return archive.read(path)


def test_the_table_is_what_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across row groups: the first event of one, the last of another, and one that is not full."""
    monkeypatch.setattr(parquet, "GROUP", 64)
    made = signed(tmp_path / "log", [event(number, **(REQUEST if number % 3 else {})) for number in range(150)])
    path = tmp_path / "events.parquet"
    path.write_bytes(part(made, "views/events.parquet", 10, 150))
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == list(parquet.FIELDS)
    assert pyarrow.parquet.ParquetFile(path).metadata.num_row_groups == 3
    assert table["index"].to_pylist() == list(range(10, 150))
    rows = table.to_pylist()
    assert rows[1]["time"].isoformat() == "2026-11-01T00:00:11+00:00"
    for name, value in {
        "request_id": "r-é日本", "intent": "i1", "reason": "=1+1", "policy_version": 3, "policy_rule": "home",
        "model_name": "small", "tokens_prompt": 2**40, "tokens_completion": 7, "site": "s1", "data_class": "internal",
        "leaf": leaf_hash(made.events[11]).hex(), "actor_kind": "user", "authentication": "session",
    }.items():  # fmt: skip
        assert rows[1][name] == value, name
    assert (rows[2]["request_id"], rows[2]["tokens_prompt"]) == ("", 0)
    asked = f"SELECT count(*), sum(tokens_completion), max(time)::varchar, min(leaf) FROM '{path}'"  # noqa: S608
    count, tokens, last, least = duckdb.sql(asked).fetchall()[0]
    assert (count, tokens) == (140, sum(row["tokens_completion"] for row in rows))
    assert last.startswith("2026-11-01 00:02:29")
    assert least == min(row["leaf"] for row in rows)


def test_no_events_are_a_table_too(tmp_path: Path) -> None:
    made = signed(tmp_path / "log", [event(1)])
    (tmp_path / "none.parquet").write_bytes(part(made, "views/events.parquet", 1, 1))
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    assert part(made, "views/ocsf.jsonl", 1, 1) == b""


@pytest.mark.parametrize("wrong", [{"tokens": {"prompt": "7"}}, {"policy": {"version": "3"}}, {"reason": 7}])
def test_an_event_that_fits_no_column_is_named(wrong: dict[str, Any]) -> None:
    lines = [event(at, **(wrong if at == 3 else {})) + b"\n" for at in range(6)]
    part = check_part(TENANT, range(10, 16), lines, 0, views=True)
    assert part.failure is not None
    assert part.failure[0] == "event_malformed"
    assert "event 13:" in part.failure[1]
    assert check_part(TENANT, range(10, 16), lines, 0, views=False).failure is None


def test_the_report_counts(tmp_path: Path) -> None:
    denial = REQUEST | {"type": "inference.denied", "outcome": "denied", "reason": "denied_by_policy"}
    events = [
        event(1, **REQUEST | {"type": "inference.intent", "outcome": "pending"}),
        event(2, **denial | {"policy": {"id": "p1", "version": 3, "decision": "deny", "rule": "no-export"}}),
        event(3, **REQUEST),
        event(4, type="policy.approved", resource={"type": "policy", "id": "p2"}, details={"version": 4}),
        event(5, type="content.erased", details={"records": 3, "requests": ["a"], "note": "x" * 101}),
    ]
    found = json.loads(part(signed(tmp_path / "log", events), "report/report.json"))
    assert found["log"] | {"root": ""} == {
        "origin": ORIGIN, "selection": {"kind": "range", "start": 0, "end": 5}, "size": 5, "root": "", "witnesses": [],
    }  # fmt: skip
    assert found["events"] == 5
    assert found["denials"] == {"denied_by_policy": {"no-export": 1}}
    assert found["models"]["small"] == {
        "asked": 1, "denied": 1, "ended": 1, "succeeded": 1, "estimated": 0,
        "prompt_tokens": 2**40, "completion_tokens": 7,
    }  # fmt: skip
    assert found["classes"] == {"internal": {"asked": 1, "denied": 1}}
    assert found["sites"]["s1"]["completion_tokens"] == 7
    assert found["sections"]["policies"] == found["sections"]["approvals"]
    assert found["sections"]["approvals"]["listed"][0]["resource"] == "policy:p2"
    assert found["sections"]["erasures"]["listed"][0]["details"] == {"records": 3}
    assert found["period"] == {"first": "2026-11-01T00:00:01.000000Z", "last": "2026-11-01T00:00:05.000000Z"}


def test_parts_are_counted_as_the_whole() -> None:
    kinds = ("policy.created", "inference.intent", "audit.read", "inference.outcome")
    events = [json.loads(event(at, type=kinds[at % 4], tokens={"prompt": at, "completion": 1})) for at in range(3_000)]
    whole, first, second = Tally(), Tally(), Tally()
    for at, one in enumerate(events):
        whole.add(at, one)
        (first if at < 1_800 else second).add(at, one)
    first.merge(second)
    assert first.report({}) == whole.report({})
    assert len(whole.lists["policies"]) == LISTED
    assert whole.listed["policies"] == 750


def test_sections_have_their_events() -> None:
    found = {name: [kind for kind in EventType if name in sections_of(kind.value)] for name in SECTIONS}
    for name in set(SECTIONS) - {"prunings"}:
        assert found[name], name
    assert EventType.POLICY_REQUESTED in found["approvals"]
    assert EventType.LOGIN_FAILED not in [kind for kinds in found.values() for kind in kinds]
