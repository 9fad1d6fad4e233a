"""Deciding is pure: an event and a view in, actions out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ravi.core import event as kinds
from ravi.core.actor import Actor
from ravi.core.agent import Agent
from ravi.core.event import Event
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.times import stamp
from ravi.core.view import Reading
from ravi.engine.actions import Launch, Settle, Stop, Tell, WakeAt
from ravi.engine.decide import callback_event, conclude, decide
from ravi.engine.explain import explain
from ravi.engine.policy import given, refusal, retry_at

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ALICE = Agent("alice", path="agents/alice/AGENT.md")


def task(id="login", **kw):
    return Task(id, **{"status": "open", "assignee": "alice", "path": f"tasks/{id}/TASK.md", **kw})


def event(kind=kinds.TASK_EDITED, subject="login", **kw):
    return Event("e1", kind, subject, commit="c" * 40, **kw)


def run(number=1, status="failed", **kw):
    return Run(f"login.{number}", "login", "alice", **{"status": status, "attempt": number, "depth": 1, **kw})


def deciding(*tasks, runs=(), agents=(ALICE,), on=None, depth=24, **kw):
    return decide(on or event(), Reading(tasks, agents, runs, **kw), NOW, max_depth=depth)


def test_an_open_task_of_an_agent_runs():
    (launch,) = deciding(task(priority=3))
    assert isinstance(launch, Launch)
    assert (launch.run, launch.agent, launch.attempt, launch.priority) == ("login.1", "alice", 1, 3)
    assert (launch.cause.commit, launch.cause.depth) == ("c" * 40, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "draft"},
        {"status": "done"},
        {"status": "blocked"},
        {"status": "review"},
        {"assignee": ""},
        {"assignee": "nobody"},
        {"problem": "line 3: unknown status"},
        {"depends_on": ("other",)},
        {"waiting_on": ("other",)},
        {"depends_on": ("missing",)},
    ],
)
def test_a_task_that_has_something_to_wait_for_does_not(changed):
    assert deciding(task(**changed), task("other", assignee="")) == ()


def test_an_agent_whose_file_has_a_problem_gets_no_work():
    assert deciding(task(), agents=[replace(ALICE, problem="no command")]) == ()


def test_the_same_event_twice_is_one_run():
    assert deciding(task(), runs=[run(status="running")]) == ()


def test_a_task_waits_for_its_upstream_and_then_runs():
    upstream = task("spec", status="done", assignee="")
    on = event(kinds.TASK_CLOSED, "spec", data={"was": "open", "status": "done"})
    (launch,) = deciding(task(depends_on=("spec",)), upstream, on=on)
    assert isinstance(launch, Launch)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("block", {"status": "blocked", "blocker": "upstream spec is failed"}),
        ("skip", {"status": "cancelled"}),
        ("run", None),
    ],
)
def test_a_failed_upstream_blocks_skips_or_is_ignored(rule, expected):
    (action,) = deciding(
        task(depends_on=("spec",), on_upstream_failure=rule), task("spec", status="failed", assignee="")
    )
    if expected is None:
        assert isinstance(action, Launch)
    else:
        assert isinstance(action, Settle)
        assert action.changes.items() >= expected.items()


def test_a_failed_run_backs_off_and_is_tried_again_under_the_next_number():
    due = NOW + timedelta(seconds=5)
    failed = run(retry_at=stamp(due))
    assert deciding(task(), runs=[failed]) == (WakeAt("login", due),)
    (launch,) = decide(event(kinds.TIMER_DUE), Reading([task()], [ALICE], [failed]), due, max_depth=24)
    assert (launch.run, launch.attempt, launch.cause.depth) == ("login.2", 2, 1)


def test_backoff_doubles_and_is_spread_by_the_run_itself():
    waits = [(retry_at(task(backoff=5.0), run(n), NOW) - NOW).total_seconds() for n in (1, 2, 3)]
    for wait, expected in zip(waits, (5, 10, 20), strict=True):
        assert expected * 0.9 <= wait <= expected * 1.1
    assert waits[0] == (retry_at(task(backoff=5.0), run(1), NOW) - NOW).total_seconds()


def test_what_ravis_own_death_ended_does_not_count():
    (launch,) = deciding(task(), runs=[run(status="interrupted", attempt=1)])
    assert (launch.run, launch.attempt) == ("login.2", 1)


def test_a_run_that_ravi_does_not_survive_is_given_to_a_person():
    crashed = [run(n, "interrupted", attempt=1, started=stamp(NOW)) for n in range(1, 6)]
    (action,) = deciding(task(), runs=crashed)
    assert isinstance(action, Settle)
    assert action.changes["status"] == "blocked"
    (again,) = deciding(task(updated=stamp(NOW + timedelta(seconds=1))), runs=crashed)
    assert isinstance(again, Launch), "opened again by a person, it counts from none"


def test_a_task_opened_again_after_its_death_starts_at_attempt_one():
    (launch,) = deciding(task(), runs=[run(1), run(2), run(3, "dead")])
    assert (launch.run, launch.attempt) == ("login.4", 1)


def test_a_chain_of_causes_that_is_too_long_ends_in_a_question():
    (action,) = deciding(task(), on=event(depth=4), depth=4)
    assert isinstance(action, Settle)
    assert "limit is 4" in action.changes["blocker"]


def test_children_that_all_ended_wake_their_parent_once():
    parent = task(waiting_on=("a", "b"))
    done = task("a", parent="login", status="done"), task("b", parent="login", status="failed")
    on = event(kinds.TASK_CLOSED, "b", depth=2, data={"was": "open", "status": "failed"})
    (launch,) = deciding(parent, *done, runs=[run(1, "succeeded")], on=on)
    assert (launch.task, launch.run, launch.woken_by, launch.cause.depth) == ("login", "login.2", ("a", "b"), 3)
    assert (
        deciding(
            parent,
            done[0],
            task("b", parent="login"),
            runs=[
                run(1, "succeeded"),
            ],
            on=event(subject="a"),
        )
        == ()
    )


@pytest.mark.parametrize("status", ["cancelled", "done", "draft", "blocked"])
def test_closing_a_task_under_its_run_stops_the_run(status):
    (action,) = deciding(task(status=status), runs=[run(status="running")])
    assert isinstance(action, Stop)
    assert action.run == "login.1"


def test_a_run_that_was_asked_to_stop_is_stopped():
    assert deciding(task(), runs=[run(status="running", stop="ann")]) == (Stop("login.1", "stopped by ann"),)


def test_an_agent_that_appears_takes_the_tasks_that_waited_for_it():
    actions = deciding(task(), task("other"), on=event(kinds.AGENT_CHANGED, "alice"))
    assert [a.task for a in actions] == ["login", "other"]


def test_a_reverted_run_puts_its_task_into_review_and_never_runs_it_again():
    on = event(kinds.RUN_REVERTED, "login.1", data={"task": "login"})
    (action,) = deciding(task(), on=on)
    assert isinstance(action, Settle)
    assert action.changes["status"] == "review"


def test_a_run_whose_file_only_went_elsewhere_was_not_reverted():
    on = event(kinds.RUN_REVERTED, "login.1", data={"task": "login"})
    assert deciding(task(status="done"), runs=[run(1, "succeeded")], on=on) == ()


def test_a_task_that_is_deleted_takes_its_live_run_with_it():
    on = event(kinds.TASK_CLOSED, data={"was": "open", "status": "", "removed": True})
    assert deciding(runs=[run(1), run(2, "running")], on=on) == (Stop("login.2", "task login was deleted"),)
    assert deciding(task(), runs=[run(2, "running")], on=on) == (), "it is back"


def test_a_person_who_closes_a_task_has_its_callbacks_told_once():
    closed = task(status="done", report_to=("task:boss",))
    on = event(kinds.TASK_CLOSED, data={"was": "open", "status": "done"})
    key = callback_event("login", "task:boss", "e1")
    (tell,) = deciding(closed, task("boss", assignee=""), on=on)
    assert tell == Tell("login", "task:boss", key, tell.cause)
    assert deciding(closed, on=on, events=[key]) == ()
    told = event(kinds.TASK_CLOSED, data={"was": "open", "status": "done", "callbacks": ["task:boss told"]})
    assert deciding(closed, on=told) == ()


def test_a_run_that_ends_well_closes_its_task():
    end = conclude(
        task(report_to=("task:boss",)), run(status="succeeded", summary="all good"), "succeeded", Reading(), NOW
    )
    assert (end.changes["status"], end.changes["summary"], end.targets, end.takes_work) == (
        "done",
        "all good",
        ("task:boss",),
        True,
    )


def test_a_run_that_ends_well_with_open_children_waits_for_them_and_names_the_quick_ones_too():
    before, begun, after = (stamp(NOW + timedelta(seconds=n)) for n in (-1, 0, 1))
    view = Reading(
        [
            task(),
            task("open", parent="login", created=before),
            task("quick", parent="login", created=after, status="done"),
            task("older", parent="login", created=before, status="done"),
        ]
    )
    end = conclude(task(), run(status="succeeded", started=begun), "succeeded", view, NOW)
    assert (dict(end.changes), end.targets) == ({"waiting_on": ["open", "quick"]}, ())


def test_a_parent_whose_children_were_quicker_than_itself_sees_what_came_of_them():
    begun, after = stamp(NOW), stamp(NOW + timedelta(seconds=1))
    view = Reading([task(), task("quick", parent="login", created=after, status="done")])
    quick = run(status="succeeded", started=begun)
    assert dict(conclude(task(), quick, "succeeded", view, NOW).changes) == {"waiting_on": ["quick"]}
    said = conclude(task(), replace(quick, outcome="done"), "succeeded", view, NOW)
    assert said.changes["status"] == "done", "it says itself that it has seen enough"


def test_a_retry_is_caused_by_the_attempt_that_failed():
    failed = run(retry_at=stamp(NOW), merge="d" * 40)
    (launch,) = deciding(task(), runs=[failed], on=event(kinds.TIMER_DUE))
    assert launch.cause.commit == "d" * 40


def test_a_task_with_checks_ends_in_review():
    end = conclude(task(has_checks=True), run(status="succeeded"), "succeeded", Reading(), NOW)
    assert end.changes["status"] == "review"


def test_the_last_attempt_ends_as_a_dead_letter():
    middle = conclude(task(), run(2, reason="exited with 3"), "failed", Reading(), NOW)
    assert (middle.status, dict(middle.changes), bool(middle.retry_at)) == ("failed", {}, True)
    last = conclude(task(), run(3, reason="exited with 3"), "failed", Reading(), NOW)
    assert (last.status, last.changes["status"]) == ("dead", "failed")
    assert "exited with 3" in last.changes["summary"]


def test_what_a_person_decided_meanwhile_stands():
    end = conclude(task(status="cancelled"), run(status="cancelled"), "cancelled", Reading(), NOW)
    assert dict(end.changes) == {}


def test_an_agent_that_needs_a_person_blocks_its_task():
    end = conclude(
        task(), run(status="succeeded", outcome="blocked", summary="which one?"), "succeeded", Reading(), NOW
    )
    assert (end.changes["status"], end.changes["blocker"]) == ("blocked", "which one?")


def test_deciding_twice_gives_the_same_answer():
    assert deciding(task()) == deciding(task())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"status": "draft"}, "it is draft"),
        ({"assignee": ""}, "nobody is assigned"),
        ({"assignee": "alise"}, "`alise` is not an agent"),
        ({"depends_on": ("x",)}, "waits for x (which does not exist)"),
        ({}, ""),
    ],
)
def test_a_silence_is_explained(changed, words):
    said = explain(task(**changed), Reading([task(**changed)], [ALICE]), NOW)
    assert words in said
    assert bool(words) == bool(said)


def test_a_run_may_do_what_its_token_says_and_nothing_else():
    actor = Actor("alice", "alice@agents.invalid", run(status="running"))
    own, child, other = task(parent="boss"), task("child", parent="login"), task("other")
    view = Reading([own, child, other, task("boss")])
    assert given(actor.run, view) == {"login", "boss", "child"}
    for verb in ("tasks.show", "tasks.comment", "tasks.progress", "tasks.done", "tasks.block", "tasks.new"):
        assert refusal(actor, verb, own, view) == "", verb
    for verb in ("tasks.show", "tasks.comment"):
        assert refusal(actor, verb, child, view) == "", verb
    for verb, about in [
        ("tasks.done", child), ("tasks.show", other), ("tasks.comment", other), ("tasks.edit", own),
        ("tasks.cancel", own), ("tasks.new", None), ("tasks.new", other), ("agents.new", None), ("runs.stop", own),
        ("log", None), ("anything", own),
    ]:  # fmt: skip
        assert refusal(actor, verb, about, view), verb
    assert refusal(Actor("ann", "ann@example.org"), "tasks.edit", other, view) == ""
