"""Moments and durations as documents spell them: ISO 8601 in UTC with `Z`; `500ms`, `30s`, `5m`, `2h`, `1d`."""

import re
from datetime import UTC, datetime, timedelta

_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+\Z")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400  # what is longer is a slip of the pen, and may leave the calendar


def parse_duration(text: object) -> float:
    """Seconds in `text`, `1m30s` too. Raises ValueError with the forms that are right."""
    if not isinstance(text, str) or not _DURATION.match(text):
        raise ValueError(f"{text!r} is not a duration; write 500ms, 30s, 5m, 2h or 1d")
    seconds = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def format_duration(seconds: float) -> str:
    """`90` -> `1m30s`, `1.5` -> `1.5s`, `0.25` -> `250ms`: for people, rounded to two units."""
    if 0.0005 <= seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if 1 <= seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole, parts = max(0, round(seconds)), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def stamp(moment: datetime) -> str:
    """`2026-11-20T10:22:33.123Z`: how every document written by ravi spells a moment."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_moment(text: object) -> datetime:
    """The moment in ISO 8601 `text`; without an offset it is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if moment:
            moment.astimezone(UTC)  # the first and the last day of the calendar are no moments everywhere
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError(f"{text!r} is not a time; write 2026-11-20T10:22:33Z")
    return moment


def later(moment: datetime, seconds: float) -> datetime:
    """`moment` plus `seconds`."""
    return moment + timedelta(seconds=seconds)
