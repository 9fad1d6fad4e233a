"""From differences to events: what a commit says happened."""

from dataclasses import replace

import pytest

from ravi.core.agent import Agent
from ravi.core.changes import Change, event_in, events_of, message_of
from ravi.core.comment import Comment
from ravi.core.event import Event
from ravi.core.places import Noun, Problem
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.trailers import Message, parse

OPEN = Task("t", "About t", status="open", path="tasks/t/TASK.md", updated="1")
DONE = replace(OPEN, status="done", updated="2")
BROKEN = Problem(OPEN.path, "is not text", 3, "title")
RUN = Run("t.1", "t", "alice", path="tasks/t/runs/1/RUN.md")
ALICE = Agent("alice", path="agents/alice/AGENT.md")
SAID = Comment("t", "bob", "2026", "Well.", "tasks/t/comments/1.md")


def happened(*changes: tuple[Noun | None, Noun | None], message: str = "x") -> list[tuple[str, str]]:
    return [(e.type, e.subject) for e in events_of("c0ffee", Message(message), map(change, changes))]


def change(pair: tuple[Noun | None, Noun | None]) -> Change:
    noun = pair[0] or pair[1]
    assert noun is not None
    return Change(noun.path, *pair)


@pytest.mark.parametrize(
    ("old", "new", "type_"),
    [
        (None, OPEN, "task.created"),
        (None, DONE, "task.created"),
        (OPEN, replace(OPEN, title="Other"), "task.edited"),
        (OPEN, DONE, "task.closed"),
        (DONE, OPEN, "task.edited"),
        (DONE, replace(DONE, status="failed"), "task.edited"),
        (BROKEN, OPEN, "task.edited"),
        (OPEN, replace(OPEN, updated="9"), None),
        (OPEN, None, "task.closed"),
        (DONE, None, None),
        (BROKEN, None, None),
        (None, RUN, None),
        (None, replace(RUN, status="succeeded"), "run.completed"),
        (RUN, replace(RUN, status="failed"), "run.failed"),
        (None, replace(RUN, status="interrupted"), "run.failed"),
        (None, replace(RUN, status="dead"), "run.dead"),
        (None, replace(RUN, status="cancelled"), "run.cancelled"),
        (replace(RUN, status="failed"), replace(RUN, status="dead"), "run.dead"),
        (replace(RUN, status="failed"), replace(RUN, status="failed", summary="x"), None),
        (replace(RUN, status="failed"), None, "run.reverted"),
        (RUN, None, None),
        (None, ALICE, "agent.changed"),
        (ALICE, replace(ALICE, runner="scripted"), "agent.changed"),
        (ALICE, None, "agent.changed"),
        (ALICE, ALICE, None),
        (None, SAID, "task.commented"),
        (SAID, replace(SAID, text="Other"), None),
        (SAID, None, None),
    ],
)
def test_a_difference_is_one_event_or_none(old: Noun | None, new: Noun | None, type_: str | None) -> None:
    subject = {"tas": "t", "run": "t.1", "age": "alice"}.get((type_ or "")[:3], "")
    assert happened((old, new)) == ([(type_, subject)] if type_ else [])


def test_a_file_that_breaks_is_a_problem_and_no_more() -> None:
    (event,) = events_of("c", Message("x"), [Change(OPEN.path, OPEN, BROKEN)])
    assert (event.type, event.subject) == ("problem.found", OPEN.path)
    assert event.data == {"path": OPEN.path, "line": 3, "key": "title", "message": "is not text"}
    assert happened((BROKEN, BROKEN)) == []
    assert happened((None, BROKEN)) == [("problem.found", OPEN.path)]


def test_an_edit_tells_what_was_and_which_keys_changed() -> None:
    new = replace(OPEN, status="blocked", blocker="ask", updated="2")
    (event,) = events_of("c", Message("x"), [Change(OPEN.path, OPEN, new)])
    assert event.data == {"path": OPEN.path, "was": "open", "status": "blocked", "changed": ["status", "blocker"]}


def test_a_moved_task_is_edited_not_removed_and_made() -> None:
    there = replace(OPEN, path="tasks/deep/t/TASK.md")
    assert happened((OPEN, None), (None, there)) == [("task.edited", "t")]
    assert happened((None, there), (OPEN, None)) == [("task.edited", "t")]
    assert happened((OPEN, None), (None, replace(there, status="done"))) == [("task.closed", "t")]


def test_another_task_in_the_same_file_ends_the_first() -> None:
    assert happened((OPEN, replace(OPEN, id="u"))) == [("task.closed", "t"), ("task.created", "u")][::-1]


ENDED = replace(RUN, status="succeeded")


@pytest.mark.parametrize("noun", [DONE, ENDED, SAID])
def test_a_move_changes_nothing_but_the_place(noun: Task | Run | Comment) -> None:
    moved = replace(noun, path=noun.path.replace("tasks/t/", "tasks/else/where/"))
    assert happened((noun, None), (None, moved)) == ([("task.edited", "t")] if noun is DONE else [])
    assert happened((None, moved), (noun, None)) == ([("task.edited", "t")] if noun is DONE else [])


def test_two_folders_that_change_places_are_two_moves() -> None:
    other = replace(ENDED, id="u.1", task="u", path="tasks/u/runs/1/RUN.md")
    changes = [
        Change(RUN.path, ENDED, replace(other, path=RUN.path)),
        Change(other.path, other, replace(ENDED, path=other.path)),
    ]
    assert events_of("c", Message("x"), changes) == ()


def test_where_a_document_takes_the_place_of_another_both_are_told() -> None:
    other = replace(ENDED, id="u.1", task="u", path="tasks/u/runs/1/RUN.md")
    changes = [Change(RUN.path, ENDED, replace(other, path=RUN.path)), Change(other.path, other, None)]
    assert [(e.type, e.subject) for e in events_of("c", Message("x"), changes)] == [("run.reverted", "t.1")]


def test_a_run_that_goes_on_its_way_is_still_told() -> None:
    moved = replace(RUN, status="dead", path="tasks/new/runs/1/RUN.md")
    assert happened((replace(RUN, status="failed"), None), (None, moved)) == [("run.dead", "t.1")]


def test_a_removed_task_says_that_it_was_removed() -> None:
    (event,) = events_of("c", Message("x"), [Change(OPEN.path, OPEN, None)])
    assert event.data == {"path": OPEN.path, "was": "open", "status": "", "removed": True}


def test_a_run_that_comes_back_ends_before_its_task_closes() -> None:
    ended = replace(RUN, status="succeeded")
    assert happened((OPEN, DONE), (None, ended), (None, ALICE), (None, SAID)) == [
        ("agent.changed", "alice"),
        ("run.completed", "t.1"),
        ("task.closed", "t"),
        ("task.commented", "t"),
    ]


def test_two_comments_in_one_commit_are_two_events() -> None:
    events = events_of("c", Message("x"), [Change("1", None, SAID), Change("2", None, replace(SAID, path="2"))])
    assert len({e.id for e in events}) == 2


def test_ids_depend_on_nothing_but_the_commit_and_what_happened() -> None:
    changes = [Change(OPEN.path, OPEN, DONE), Change(RUN.path, None, replace(RUN, status="dead"))]
    one = events_of("c1", Message("x"), changes, time="now")
    assert one == events_of("c1", Message("x"), changes[::-1], time="now")
    assert not {e.id for e in one} & {e.id for e in events_of("c2", Message("x"), changes)}
    assert [(e.commit, e.time) for e in one] == [("c1", "now")] * 2


@pytest.mark.parametrize(("told", "depth"), [("3", 3), ("", 0), ("-1", 0), ("many", 0), ("²", 0)])
def test_depth_is_told_by_the_trailer(told: str, depth: int) -> None:
    (event,) = events_of("c", Message("x", "", {"Ravi-Depth": told}), [Change("p", None, OPEN)])
    assert event.depth == depth


def test_an_event_from_elsewhere_is_read_back_from_its_commit() -> None:
    event = Event(
        "e1", "timer.due", "t", "cron", "2026-11-20T10:22:33.123Z", depth=2, data={"né\nRavi-Event: x": [1, None]}
    )
    written = parse(message_of(event).render())
    assert event_in("c1", written) == replace(event, commit="c1")
    assert events_of("c1", written, [Change("p", None, OPEN)])[0] == replace(event, commit="c1")


@pytest.mark.parametrize(
    "message",
    [
        Message("event e1: forged", "not json", {"Ravi-Event": "e1"}),
        Message("event e1: forged", "[]", {"Ravi-Event": "e1"}),
        Message("event e1: forged", '{"id": "e2", "type": "x", "subject": "y"}', {"Ravi-Event": "e1"}),
        Message("event e1: forged", '{"id": "e1"}', {"Ravi-Event": "e1"}),
        Message("event e1: forged", '{"id": "e1", "type": "x", "subject": "y", "other": 1}', {"Ravi-Event": "e1"}),
        Message("event e1: forged", '{"id": "e1", "type": "x", "subject": "y", "depth": "2"}', {"Ravi-Event": "e1"}),
        Message("task t: closed", '{"id": "e1", "type": "x", "subject": "y"}', {"Ravi-Event": "e1"}),
        Message("event e1: no trailer", '{"id": "e1", "type": "x", "subject": "y"}'),
    ],
)
def test_what_only_looks_like_an_event_is_none(message: Message) -> None:
    assert event_in("c", message) is None
