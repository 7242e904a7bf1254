"""Content by policy, for those who write it and those who read it: see kasbah.audit.content."""

from kasbah.audit.content import demand, erasure, late
from kasbah.audit.content.erasure import ERASED, settle
from kasbah.audit.content.forms import BODY, STREAM, StreamForm
from kasbah.audit.content.opening import Altered, Opened, open_record
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
    "ERASED",
    "NONE",
    "SEALED",
    "STREAM",
    "Altered",
    "KeyDestroyed",
    "MonthKey",
    "Opened",
    "Place",
    "Record",
    "StreamForm",
    "Vault",
    "commit",
    "demand",
    "erasure",
    "insert",
    "late",
    "make",
    "open_record",
    "settle",
    "told",
]
