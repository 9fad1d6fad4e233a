"""Moments and durations: how they are written, and what is no moment and no duration."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.core.times import format_duration, later, parse_duration, parse_moment, stamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), ("0s", 0), ("1m30s", 90)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "30", "30 s", "s", "-5s", "1w", "5M", "1e3s", "٣s", "5s ", "\n5s", "inf", None, 30, True, "9" * 400 + "d",
     "3651d"],
)  # fmt: skip
def test_what_is_no_duration_is_told_what_one_is(text: object) -> None:
    with pytest.raises(ValueError, match=r"write 500ms, 30s, 5m, 2h or 1d|longer than ten years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (-3, "0s"), (0.0001, "0s"), (0.25, "250ms"), (0.9999, "1s"), (1, "1s"),
        (1.5, "1.5s"), (9.99, "10s"), (59.7, "1m"), (90, "1m30s"), (3600, "1h"), (93784, "1d2h"),
    ],
)  # fmt: skip
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 86400 * 365))
def test_a_told_duration_can_be_written_down_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.001)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC)))
def test_a_stamp_is_read_back_to_the_millisecond(moment: datetime) -> None:
    assert abs(parse_moment(stamp(moment)) - moment) < timedelta(milliseconds=1)
    assert stamp(parse_moment(stamp(moment))) == stamp(moment)


def test_stamps_are_utc_and_sort_as_text() -> None:
    noon = datetime(2026, 11, 20, 12, 0, tzinfo=timezone(timedelta(hours=-3)))
    assert stamp(noon) == "2026-11-20T15:00:00.000Z"
    assert stamp(noon) < stamp(later(noon, 0.001))


def test_a_moment_without_an_offset_is_utc() -> None:
    assert parse_moment("2026-11-20") == datetime(2026, 11, 20, tzinfo=UTC)
    assert parse_moment("2026-11-20T10:00:00+02:00") == datetime(2026, 11, 20, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "20:15", None, 20261120, "0001-01-01T00:00+14:00", "\ud800"]
)
def test_what_is_no_moment_is_told_what_one_is(text: object) -> None:
    with pytest.raises(ValueError, match="write 2026-11-20T10:22:33Z"):
        parse_moment(text)
