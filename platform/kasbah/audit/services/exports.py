"""Exports of a log, for those who may make them."""

from kasbah.audit.export.bundle import ExportBroken
from kasbah.audit.export.companions import companions
from kasbah.audit.export.exporting import PARTS, Choice, Exported, Wanted, begin, choose, export
from kasbah.audit.export.selection import MODEL, PERSON, REQUEST, Selection
from kasbah.audit.export.work import Work
from kasbah.audit.log.keys import log_key
from kasbah.audit.log.proofs import first_inclusion

__all__ = [
    "MODEL",
    "PARTS",
    "PERSON",
    "REQUEST",
    "Choice",
    "ExportBroken",
    "Exported",
    "Selection",
    "Wanted",
    "Work",
    "begin",
    "choose",
    "companions",
    "export",
    "first_inclusion",
    "log_key",
]
