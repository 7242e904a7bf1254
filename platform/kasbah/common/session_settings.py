"""What every session with PostgreSQL relies on, sent with its start so that nobody else's setting takes its place.

A setting of a role (ALTER ROLE ... SET), of the database (ALTER DATABASE ... SET) or of PGOPTIONS changes what a
statement means: with `standard_conforming_strings = off` other bytes are stored than were sent, `app.platform = on`
opens every tenant's rows. What the client sends in `options` stands above all of these. What a client may not send
(session_replication_role), and what something between here and the server dropped, `differing` finds at the start.

Not here on purpose: `default_transaction_read_only`. Who sets it wants nothing to be written; requests are 503 then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg

# Known to every PostgreSQL since 14; an unknown name would end the connection.
PINNED: Mapping[str, str] = {
    # what text means
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "client_encoding": "UTF8",
    "bytea_output": "hex",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "xmloption": "content",
    "quote_all_identifiers": "off",
    # which rows there are, and in which table
    "search_path": "public,pg_temp",  # pg_catalog comes first by itself; pg_temp would too, unless it is named
    "row_security": "on",
    "app.platform": "",
    "app.tenant": "",
    "gin_fuzzy_search_limit": "0",
    # transactions
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "on",  # an intent is on disk before anything is dispatched
    "exit_on_error": "off",
    # Callers have deadlines of their own. A session that ends by itself in between loses locks and announcements; one
    # that hangs within a transaction holds up the sequencer.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "0",
}
# What a client may not set or not every server knows, as it must be; a server that has no such setting is right.
REQUIRED: Mapping[str, str] = {
    "session_replication_role": "origin",  # else triggers and foreign keys are silent
    "role": "none",
    "server_encoding": "UTF8",
    "transaction_timeout": "0",
    "restrict_nonsystem_relation_kind": "",
}


def pinned(url: str) -> str:
    """The postgresql:// URL with the settings in its `options`, after those that it has: the last one counts."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = " ".join([*filter(None, [query.get("options")]), *_options()])
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def _options() -> Iterator[str]:
    for name, value in PINNED.items():
        escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
        yield f"-c {name}={escaped}"


def differing(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    """Each setting of this session that is not as it must be, with its value: `role is 'other' and must be 'none'`."""
    wanted = {**PINNED, **REQUIRED}
    rows = connection.execute(
        "SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest(%s::text[]) AS name", [list(wanted)]
    ).fetchall()
    return [
        f"{name} is {value!r} and must be {wanted[name]!r}"
        for name, value in rows
        if value is not None and value != wanted[name]
    ]
