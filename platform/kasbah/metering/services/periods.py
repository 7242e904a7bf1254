"""Days and months of quotas, in UTC, and durations as OpenAI's headers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kasbah.metering.models import Period


def start(period: str, moment: float) -> datetime:
    """Beginning of the period that holds `moment` (seconds since the epoch)."""
    day = datetime.fromtimestamp(moment, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if period == Period.DAY else day.replace(day=1)


def end(period: str, moment: float) -> datetime:
    """When the next period begins."""
    begin = start(period, moment)
    return begin + timedelta(days=1) if period == Period.DAY else (begin + timedelta(days=32)).replace(day=1)


def label(period: str, moment: float) -> str:
    """Names the period: 2026-11 or 2026-11-23."""
    return f"{start(period, moment):{'%Y-%m-%d' if period == Period.DAY else '%Y-%m'}}"


def seconds_left(moment: float) -> int:
    """Until the month ends, which every shorter period ends with."""
    return int(end(Period.MONTH, moment).timestamp() - moment) + 1


def duration(milliseconds: int) -> str:
    """As in x-ratelimit-reset-*: "17ms", "8.64s", "6m0s", "1h0m5s"."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
