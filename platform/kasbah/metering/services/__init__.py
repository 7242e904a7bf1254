"""Limits, quotas and usage."""

from kasbah.metering.services.limits import LimitRecord, Limits, load_limits, remove_limit, set_limit
from kasbah.metering.services.meter import DEFAULT_REQUESTS, DEFAULT_TOKENS, Meter, Reservation
from kasbah.metering.services.usage import GROUPS, UsageRow, insert_usage, record_usage, sum_usage

__all__ = [
    "DEFAULT_REQUESTS",
    "DEFAULT_TOKENS",
    "GROUPS",
    "LimitRecord",
    "Limits",
    "Meter",
    "Reservation",
    "UsageRow",
    "insert_usage",
    "load_limits",
    "record_usage",
    "remove_limit",
    "set_limit",
    "sum_usage",
]
