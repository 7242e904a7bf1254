"""How bytes reach PostgreSQL: as they are. psycopg writes lists as text unless it is told otherwise, and looks at each
character of it in Python, for a tenth of a second with 4 MiB, while nobody else is served."""

from __future__ import annotations

import time
from pathlib import Path

from psycopg.adapt import PyFormat, Transformer

PLATFORM = Path(__file__).parents[2] / "platform" / "kasbah"


def seconds(form: PyFormat) -> float:
    values, begun = [b"\\ " * 2_000_000, None], time.thread_time()
    Transformer().get_dumper(values, form).upgrade(values, form).dump(values)
    return time.thread_time() - begun


def test_lists_of_bytes_are_written_in_binary() -> None:
    texts = {path: path.read_text() for path in PLATFORM.rglob("*.py")}
    assert [path.name for path, text in texts.items() if "%s::bytea[]" in text] == []
    assert sum("%b::bytea[]" in text for text in texts.values()) >= 5
    # The control: as text they take many times as long.
    assert seconds(PyFormat.BINARY) < seconds(PyFormat.TEXT) / 5
