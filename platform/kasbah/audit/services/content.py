"""Content by policy, for those who write it and those who read it: see kasbah.audit.content."""

from kasbah.audit.content import late
from kasbah.audit.content.forms import BODY, STREAM, StreamForm
from kasbah.audit.content.records import (
    COMMITMENT,
    NONE,
    SEALED,
    KeyDestroyed,
    Place,
    Record,
    commit,
    insert,
    make,
    told,
)
from kasbah.audit.content.vault import MonthKey, Vault

__all__ = [
    "BODY",
    "COMMITMENT",
    "NONE",
    "SEALED",
    "STREAM",
    "KeyDestroyed",
    "MonthKey",
    "Place",
    "Record",
    "StreamForm",
    "Vault",
    "commit",
    "insert",
    "late",
    "make",
    "told",
]
