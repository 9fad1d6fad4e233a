"""The git log as a bus: where its cursor stands, when it is written, and what a commit without events costs."""

from collections.abc import Sequence

import pytest

from ravi.bus.log import LogBus
from ravi.core.event import Event
from ravi.errors import Conflict


class Line:
    """A main line in memory that counts what is asked of it."""

    def __init__(self, *counts: int) -> None:
        self.commits = [
            (f"c{c}", tuple(Event(f"c{c}e{n}", "task.edited", "t") for n in range(count)))
            for c, count in enumerate(counts)
        ]
        self.at: str | None = None
        self.moves: list[str] = []
        self.buried_: list[tuple[Event, str]] = []

    def commits_after(self, commit: str | None, limit: int) -> Sequence[tuple[str, tuple[Event, ...]]]:
        start = 0 if commit is None else [oid for oid, _ in self.commits].index(commit) + 1
        return self.commits[start : start + limit]

    def cursor(self, name: str) -> str | None:
        return self.at

    def move(self, name: str, to: str, was: str | None) -> None:
        if was != self.at:
            raise Conflict("somebody else reads under this name")
        self.at = to
        self.moves.append(to)

    def record(self, event: Event) -> bool:
        return False

    def bury(self, name: str, event: Event, reason: str) -> None:
        self.buried_.append((event, reason))

    def buried(self, name: str) -> Sequence[tuple[Event, str]]:
        return self.buried_


def reader(line: Line) -> LogBus:
    return LogBus(line, "engine", lambda: 0.0)


def test_the_cursor_passes_a_commit_when_all_its_events_are_settled() -> None:
    line = Line(2, 1)
    bus = reader(line)
    one, two, three = bus.receive(9)
    one.ack()
    three.ack()
    assert line.at is None
    two.term("enough")
    assert line.at == "c1"


def test_a_batch_costs_one_writing_of_the_cursor() -> None:
    line = Line(*[1] * 40)
    bus = reader(line)
    for delivery in bus.receive(40):
        delivery.ack()
    assert line.moves == ["c39"]


def test_the_cursor_does_not_fall_far_behind_while_something_is_out() -> None:
    line = Line(*[1] * 300)
    bus = reader(line)
    *rest, _ = bus.receive(300)
    for delivery in rest:
        delivery.ack()
    assert line.at is not None
    assert int(line.at[1:]) >= 299 - 64
    bus.close()
    assert line.at == "c298"


def test_commits_without_events_are_passed_by_the_way() -> None:
    line = Line(0, 0, 1, 0, 0)
    bus = reader(line)
    (delivery,) = bus.receive(1)
    assert line.at is None or line.at == "c1"
    delivery.ack()
    assert bus.receive(1) == []
    assert line.at == "c4"


def test_a_long_stretch_without_events_is_one_writing() -> None:
    line = Line(*[0] * 1000)
    assert reader(line).receive(1) == []
    assert line.moves == ["c999"]


def test_what_is_put_back_keeps_the_cursor_before_it() -> None:
    line = Line(1, 1, 1)
    bus = reader(line)
    one, two, three = bus.receive(3)
    one.ack()
    two.nak(60)
    three.ack()
    assert line.at == "c0"
    assert [d.event.id for d in reader(line).receive(9)] == ["c1e0", "c2e0"]


def test_a_dead_letter_is_kept_before_the_cursor_passes_it() -> None:
    class Full(Line):
        def bury(self, name: str, event: Event, reason: str) -> None:
            raise OSError("no room")

    line = Full(1)
    (delivery,) = reader(line).receive(1)
    with pytest.raises(OSError, match="no room"):
        delivery.term("enough")
    assert line.at is None


def test_a_second_reader_under_one_name_is_refused() -> None:
    line = Line(1)
    first, second = reader(line), reader(line)
    (one,), (two,) = first.receive(1), second.receive(1)
    one.ack()
    with pytest.raises(Conflict):
        two.ack()
