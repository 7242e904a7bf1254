"""Exports of a log, for those who may make them."""

from kasbah.audit.export.bundle import ExportBroken, Range
from kasbah.audit.export.exporting import Exported, choose, export
from kasbah.audit.log.keys import log_key

__all__ = ["ExportBroken", "Exported", "Range", "choose", "export", "log_key"]
