"""The index over a real repository: what it says, how it follows, and what it survives."""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from workshop import AUTHOR, Store, init, opened, python, shell, times

from ravi.core import places, schema
from ravi.core import run as runs
from ravi.core.agent import Agent
from ravi.core.comment import Comment
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.trailers import Message
from ravi.core.view import View
from ravi.errors import NotFound, Unavailable, UsageError
from ravi.store.index import Index, IndexView
from ravi.store.index_tables import FORMAT
from ravi.store.index_view import RUN_KEYS, TASK_KEYS
from ravi.store.objects import EXECUTABLE, LINK, TreeEntry


class Line:
    """A main line that grows commit by commit, and an index beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = init(root)
        self.objects = self.store.objects
        self.tip = ""
        self.path = str(root / ".ravi" / "index.sqlite")
        self.index = Index(self.path, lambda: self.objects)

    def commit(
        self,
        changes: Mapping[str, bytes | str | TreeEntry | None],
        trailers: Mapping[str, str] | None = None,
        *,
        on: str | None = None,
        merging: tuple[str, ...] = (),
    ) -> str:
        """A commit on the tip (or on another commit, and then the tip stays)."""
        base = self.tip if on is None else on
        raw = {path: text.encode() if isinstance(text, str) else text for path, text in changes.items()}
        tree = self.objects.apply(self.objects.commit(base).tree if base else None, raw)
        message = Message("something: happened", "", trailers or {}).render()
        oid = self.objects.put_commit(tree, [*([base] if base else []), *merging], AUTHOR, AUTHOR, message)
        self.objects.flush()
        if on is None:
            self.tip = oid
        return oid

    def view(self, live: Mapping[str, Run] | None = None, *, now: str = "") -> IndexView:
        return self.index.view(live, commit=self.tip, now=now)

    def says(self, id: str, *, live: Mapping[str, Run] | None = None, now: str = "") -> dict[str, Any]:
        """One task, as lists show it."""
        with self.view(live, now=now) as view:
            return next(task for task in view.list_tasks(all=True) if task["id"] == id)

    def statuses(self, **kw: Any) -> dict[str, str]:
        with self.view(**kw) as view:
            return {task["id"]: task["status"] for task in view.list_tasks(all=True)}

    def problems(self) -> list[tuple[str, str, str]]:
        with self.view() as view:
            return [(p["path"], p["key"], p["message"]) for p in view.problems()]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path / "w")
    yield line
    line.index.close()
    line.store.close()


def task(id: str, body: str = "", **keys: object) -> str:
    said = [f"id: {id}"] if id else []
    said += [f"{name}: {value}" for name, value in {"title": f"About {id}", "status": "open", **keys}.items()]
    return "\n".join(["---", *said, "---", "", body, ""])


def ended(id: str, status: str = "succeeded", **keys: object) -> bytes:
    return runs.render(
        Run(id, id.rpartition(".")[0], "alice", status=status, started="2026-01-01T00:00:00.000Z", **keys)
    )  # type: ignore[arg-type]


AGENT = "---\nrunner: command\ncommand: [./work.sh]\n---\n\nYou are an agent.\n"


def at(id: str) -> str:
    return f"tasks/{id}/TASK.md"


def everything(index: Index, commit: str) -> dict[str, Any]:
    """All that an index says at a commit, but for the order in which it learned it."""
    with index.view(commit=commit) as view:
        tasks = view.tasks()
        return {
            "list": view.list_tasks(all=True),
            "tasks": tasks,
            "children": {t.id: [c.id for c in view.children(t.id)] for t in tasks},
            "dependents": {t.id: [d.id for d in view.dependents(t.id)] for t in tasks},
            "status": {t.id: view.status_of(t) for t in tasks},
            "runs": {t.id: view.runs(t.id) for t in tasks},
            "numbers": {t.id: view.last_number(t.id) for t in tasks},
            "comments": {t.id: view.comments(t.id) for t in tasks},
            "agents": view.agents(),
            "problems": sorted(map(json.dumps, view.problems())),
            "found": {word: view.list_tasks(all=True, text=word, fields=["id"]) for word in ("alpha", "beta", "gam")},
            "events": {n: view.event_commit(f"event{n}") for n in range(400)},
        }


# -- what it says


def test_every_noun_comes_back_as_it_was_read(line: Line) -> None:
    whole = """---
id: whole
title: "Crème brûlée: 1.10"
status: review
assignee: alice
priority: -3
labels: [a, "b c"]
due: 2026-12-01
parent: other
depends_on: [x, y]
on_upstream_failure: skip
links: {related: [one, two], duplicates: three}
report_to: [session:main, "task:other"]
report_on: [done]
repo: ../code
base: main
branch: topic
keep: true
profile: bug
inputs: {name: [1, {deep: yes}]}
checks:
  - command: just test
  - files: [a, b]
timeout: 2h
attempts: 5
backoff: 250ms
checkpoint: 5m
budget: {usd: 2.50, tokens: 5}
progress: half
summary: |
  two
  lines
blocker: nobody
waiting_on: [z]
created: 2026-01-01T00:00:00.000Z
updated: 2026-01-02T00:00:00.000Z
created_by: bob
unknown: kept elsewhere
---
# Heading

Body with "quotes" and \\ and ünïcode 💧.
"""
    agent = """---
runner: scripted
script: [{say: hello, wait: 5s}, bye]
env: {A: b}
timeout: 5m
concurrency: 3
permissions: {write: [outputs/**], tools: all}
approvals: {push: ann}
debounce: 2s
limits: {usd: 3}
---

You are "alice".
"""
    run = """---
id: whole.12
task: whole
agent: alice
attempt: 2
first: 11
status: failed
started: 2026-01-01T00:00:00.000Z
ended: 2026-01-01T00:00:01.000Z
base: abc
branch: refs/ravi/runs/whole.12
exit: 3
reason: exited with 3
retry_at: 2026-01-01T00:01:00.000Z
usage: {tokens: 5, cost: 0.12}
woken_by: [x]
refused: ["TASK.md: no"]
depth: 2
---

Last words.
"""
    comment = "---\nauthor: bob\ncreated: 2026-01-01T00:00:00.000Z\nkind: callback\n---\n\nWell *done*.\n"
    line.commit(
        {
            "tasks/w/TASK.md": whole,
            "agents/alice/AGENT.md": agent,
            "tasks/w/runs/12/RUN.md": run,
            "tasks/w/comments/1.md": comment,
            at("other"): task("other"),
        }
    )
    with line.view() as view:

        def read(path: str, text: str, id: str = "") -> Any:
            place = places.place_of(path)
            assert place is not None
            return places.read(path, place, text.encode(), id)

        assert view.task("whole") == read("tasks/w/TASK.md", whole)
        assert view.agent("alice") == read("agents/alice/AGENT.md", agent)
        assert view.runs("whole") == (read("tasks/w/runs/12/RUN.md", run),)
        assert view.comments("whole") == (read("tasks/w/comments/1.md", comment, "whole"),)


def test_a_card_has_the_keys_that_every_face_shows(line: Line) -> None:
    line.commit({at("a"): task("a", labels="[x]"), "tasks/a/runs/1/RUN.md": ended("a.1")})
    with line.view() as view:
        (card,) = view.list_tasks()
        assert tuple(card) == TASK_KEYS
        assert card["runs"] == ["a.1"]
        assert card["path"] == "tasks/a/TASK.md"
        assert json.loads(view.tasks_json()) == [card]
    assert {"id", "merge", "retry_at"} <= set(RUN_KEYS)


def test_it_is_a_view(line: Line) -> None:
    line.commit({at("a"): task("a")})
    with line.view() as found:
        view: View = found
        assert view.commit == line.tip
        assert view.has(at("a"))
        assert not view.has(at("b"))
        assert view.task("b") is None
        assert view.agent("nobody") is None
        assert view.last_number("a") == 0
        assert view.live_runs() == ()


def test_family_and_upstream_are_found_by_id(line: Line) -> None:
    line.commit(
        {
            at("p"): task("p", waiting_on="[c2]"),
            at("c2"): task("c2", parent="p"),
            at("c1"): task("c1", parent="p", status="done"),
            at("d"): task("d", depends_on="[c1]", assignee="alice"),
        }
    )
    with line.view() as view:
        assert [t.id for t in view.children("p")] == ["c1", "c2"]
        assert [t.id for t in view.dependents("c1")] == ["d"]
        assert [t.id for t in view.dependents("c2")] == ["p"]
        assert [t.id for t in view.assigned("alice")] == ["d"]
        assert view.children("") == ()
        assert view.assigned("") == ()


@pytest.mark.parametrize(
    ("keys", "upstream", "shown"),
    [
        ({}, "open", "open"),
        ({"depends_on": "[u]"}, "open", "waiting"),
        ({"depends_on": "[u]"}, "review", "waiting"),
        ({"depends_on": "[u]"}, "done", "open"),
        ({"depends_on": "[u]"}, "failed", "waiting"),
        ({"depends_on": "[u]", "on_upstream_failure": "skip"}, "failed", "waiting"),
        ({"depends_on": "[u]", "on_upstream_failure": "run"}, "failed", "open"),
        ({"depends_on": "[u]", "on_upstream_failure": "run"}, "open", "waiting"),
        ({"waiting_on": "[u]"}, "open", "waiting"),
        ({"waiting_on": "[u]"}, "failed", "open"),
        ({"depends_on": "[nowhere]"}, "done", "waiting"),
        ({"depends_on": "[u]", "status": "blocked"}, "open", "blocked"),
        ({"depends_on": "[u]", "status": "done"}, "open", "done"),
    ],
)
def test_waiting_follows_from_other_tasks(line: Line, keys: dict[str, str], upstream: str, shown: str) -> None:
    line.commit({at("t"): task("t", **keys), at("u"): task("u", status="draft")})
    assert line.says("t")["status"] in ("waiting", "open", keys.get("status"))
    line.commit({at("u"): task("u", status=upstream)})
    assert line.says("t")["status"] == shown
    with line.view() as view:
        found = view.task("t")
        assert found is not None
        assert view.status_of(found) == shown


def test_a_task_that_comes_back_later_is_waited_for_again(line: Line) -> None:
    line.commit({at("t"): task("t", depends_on="[u]"), at("u"): task("u", status="done")})
    assert line.says("t")["status"] == "open"
    line.commit({at("u"): None})
    assert line.says("t")["status"] == "waiting"
    assert ("tasks/t/TASK.md", "depends_on", "no task `u` in this workspace") in line.problems()
    line.commit({at("u"): task("u", status="done")})
    assert line.says("t")["status"] == "open"
    assert line.problems() == []


def test_a_task_waits_for_its_next_attempt(line: Line) -> None:
    soon = "2026-01-01T00:05:00.000Z"
    line.commit({at("t"): task("t"), "tasks/t/runs/1/RUN.md": ended("t.1", "failed", retry_at=soon)})
    assert line.says("t", now="2026-01-01T00:00:00.000Z")["status"] == "waiting"
    assert line.says("t", now="2026-01-01T00:06:00.000Z")["status"] == "open"
    with line.view(now="2026-01-01T00:00:00.000Z") as view:
        assert [t["id"] for t in view.list_tasks(status="waiting")] == ["t"]
        assert view.list_tasks(status="open") == []
        found = view.task("t")
        assert found is not None
        assert view.status_of(found) == "waiting"
    line.commit({"tasks/t/runs/2/RUN.md": ended("t.2")})
    assert line.says("t", now="2026-01-01T00:00:00.000Z")["status"] == "open"


def test_lists_have_the_urgent_and_then_the_old_first(line: Line) -> None:
    line.commit(
        {
            at("low"): task("low", created="2026-01-01T00:00:00Z"),
            at("old"): task("old", priority=2, created="2026-01-01T00:00:00Z"),
            at("new"): task("new", priority=2, created="2026-02-01T00:00:00Z"),
            at("last"): task("last", priority=-1),
            at("shut"): task("shut", priority=9, status="done"),
        }
    )
    with line.view() as view:
        assert [t["id"] for t in view.list_tasks()] == ["old", "new", "low", "last"]
        assert [t["id"] for t in view.list_tasks(all=True)] == ["shut", "old", "new", "low", "last"]
        assert [t["id"] for t in view.list_tasks(limit=2)] == ["old", "new"]
        assert view.list_tasks(limit=0) == []
        assert view.list_tasks(fields=("id", "status", "priority"), limit=1) == [
            {"id": "old", "status": "open", "priority": 2}
        ]
        assert view.list_tasks(fields=("id", "labels"), limit=1) == [{"id": "old", "labels": []}]


def test_lists_are_narrowed(line: Line) -> None:
    line.commit(
        {
            "agents/alice/AGENT.md": AGENT,
            at("a"): task("a", assignee="alice", labels="[web, x y]", parent="p"),
            at("b"): task("b", status="failed", labels="[webs]"),
            at("p"): task("p", status="blocked", waiting_on="[a]"),
            at("w"): task("w", depends_on="[a]"),
        }
    )
    with line.view() as view:

        def ids(**wanted: Any) -> list[str]:
            return [t["id"] for t in view.list_tasks(**wanted)]

        assert ids(assignee="alice") == ["a"]
        assert ids(assignee="") == ["p", "w"]
        assert ids(label="web") == ["a"]
        assert ids(label="x y") == ["a"]
        assert ids(label="x") == []
        assert ids(parent="p") == ["a"]
        assert ids(status="failed") == ["b"]
        assert ids(status="blocked") == ["p"]
        assert ids(status="waiting") == ["w"]
        assert ids(status="open") == ["a"]
        assert ids(status="running") == []
        assert ids(status="nonsense") == []
        assert ids(assignee="alice", label="web", status="open", text="about", limit=5) == ["a"]


def test_words_are_found_at_their_beginning_in_any_spelling(line: Line) -> None:
    line.commit(
        {
            at("a"): task("a", "The café is closed; a log-in fails.", title="Login page"),
            at("b"): task("b", "Ação imediata", title="Other"),
        }
    )
    with line.view() as view:

        def ids(text: str) -> list[str]:
            return [t["id"] for t in view.list_tasks(text=text)]

        assert ids("CAFE") == ["a"]
        assert ids("caf log") == ["a"]
        assert ids("log-in") == ["a"]
        assert ids("acao") == ["b"]
        assert ids("ogin") == []
        assert ids("login other") == []
        assert ids("") == ["a", "b"]
        assert ids("  ") == ["a", "b"]
        assert ids("  !!! ") == []
        for hostile in (
            '"',
            'log"in',
            "NEAR(",
            "a AND",
            "title:login*",
            "*",
            "^page",
            "{title}: x",
            "x' OR 1",
            "-in",
            "\0",
        ):
            ids(hostile)
    line.commit({at("a"): task("a", "Nothing left of it.", title="Renamed")})
    with line.view() as view:
        assert view.list_tasks(text="cafe") == []
        assert [t["id"] for t in view.list_tasks(text="renam")] == ["a"]
    line.commit({at("a"): None})
    with line.view() as view:
        assert view.list_tasks(text="renam") == []


def test_ids_may_be_shortened_while_they_are_unique(line: Line) -> None:
    line.commit(
        {
            "agents/alice/AGENT.md": AGENT,
            at("login-7f3k2a"): task("login-7f3k2a"),
            at("login-8"): task("login-8"),
            at("logo"): task("logo"),
            at("logo-2"): task("logo-2"),
            "tasks/logo/runs/1/RUN.md": ended("logo.1"),
        }
    )
    live = {"login-8.2": Run("login-8.2", "login-8", "alice")}
    with line.view(live) as view:
        assert view.resolve("login-7") == "login-7f3k2a"
        assert view.resolve("logo") == "logo"
        assert view.resolve("ali", "agent") == "alice"
        assert view.resolve("logo.", "run") == "logo.1"
        assert view.resolve("login-8", "run") == "login-8.2"
        with pytest.raises(UsageError, match="login-7f3k2a, login-8, logo, logo-2"):
            view.resolve("lo")
        with pytest.raises(NotFound) as fault:
            view.resolve("logni-8")
        assert "`login-8`" in fault.value.hint
        with pytest.raises(NotFound):
            view.resolve("")
        with pytest.raises(NotFound):
            view.resolve("%")
    assert line.index.resolve("login-7") == "login-7f3k2a"
    assert line.index.task_path("logo") == at("logo")
    assert line.index.task_path("log") is None


# -- runs


def test_runs_are_those_of_the_main_line_and_those_that_live(line: Line) -> None:
    line.commit({at("a"): task("a"), **{f"tasks/a/runs/{n}/RUN.md": ended(f"a.{n}", "failed") for n in (1, 2, 10)}})
    stale, live = Run("a.2", "a", "alice"), Run("a.11", "a", "alice", started="2026-02-01T00:00:00.000Z")
    with line.view({"a.2": stale, "a.11": live}) as view:
        assert [run.id for run in view.runs("a")] == ["a.1", "a.2", "a.10", "a.11"]
        assert [run.status for run in view.runs("a")] == ["failed", "failed", "failed", "running"]
        assert view.live_runs() == (live,)
        assert view.run("a.11") == live
        assert view.run("a.2") is not None
        assert view.run("a.3") is None
        assert view.last_number("a") == 11
        assert [run.id for run in view.all_runs()] == ["a.11", "a.1", "a.10", "a.2"]
        assert [run.id for run in view.all_runs(status="failed", task="a", agent="alice", limit=2)] == ["a.1", "a.10"]
        assert view.all_runs(agent="bob") == []
        (card,) = view.list_tasks()
        assert card["status"] == "running"
        assert card["runs"] == ["a.1", "a.2", "a.10", "a.11"]
        assert json.loads(view.tasks_json(status="running")) == [card]
        assert view.list_tasks(fields=("status",), status="running") == [{"status": "running"}]
        assert view.list_tasks(status="open") == []
        found = view.task("a")
        assert found is not None
        assert view.status_of(found) == "running"
    assert [t["status"] for t in line.index.list_tasks(live=["a.11"])] == ["running"]
    assert [t["status"] for t in line.index.list_tasks(live=["a.10"])] == ["open"]


def test_a_run_knows_the_merge_that_brought_it_back(line: Line) -> None:
    base = line.commit({at("a"): task("a")})
    claim = line.commit({"tasks/a/runs/1/RUN.md": ended("a.1", "running")}, {"Ravi-Run": "a.1"}, on=base)
    result = line.commit({"tasks/a/runs/1/RUN.md": ended("a.1")}, {"Ravi-Run": "a.1"}, on=claim)
    merge = line.commit(
        {"tasks/a/runs/1/RUN.md": ended("a.1"), at("a"): task("a", status="done")},
        {"Ravi-Run": "a.1", "Ravi-Event": "e1"},
        merging=(result,),
    )
    with line.view() as view:
        (run,) = view.runs("a")
        assert run.merge == merge
        assert view.event_commit("e1") == merge
        assert view.seen("e1")
        assert not view.seen("e2")
    assert line.index.seen("e1")


def test_a_reverted_run_stays_back_and_its_number_is_not_used_again(line: Line) -> None:
    base = line.commit({at("a"): task("a")})
    side = line.commit({"tasks/a/runs/3/RUN.md": ended("a.3")}, {"Ravi-Run": "a.3"}, on=base)
    line.commit({"tasks/a/runs/3/RUN.md": ended("a.3")}, {"Ravi-Run": "a.3"}, merging=(side,))
    line.commit({"tasks/a/runs/3/RUN.md": None})
    line.store.refs.create("refs/ravi/runs/a.3", side)
    with line.view(line.index.live(line.store.refs)) as view:
        assert view.runs("a") == ()
        assert view.live_runs() == ()
        assert view.last_number("a") == 3


def test_the_refs_of_runs_tell_what_is_live(line: Line) -> None:
    base = line.commit({at("a"): task("a"), at("b"): task("b"), "tasks/b/runs/1/RUN.md": ended("b.1")})
    refs = line.store.refs
    running = runs.render(Run("a.1", "a", "alice", branch="refs/ravi/runs/a.1", path="tasks/a/runs/1/RUN.md"))
    claim = line.commit({"tasks/a/runs/1/RUN.md": running}, {"Ravi-Run": "a.1"}, on=base)
    refs.create("refs/ravi/runs/a.1", claim)
    refs.create("refs/ravi/runs/b.1", base)  # its end is on the main line already
    refs.create("refs/ravi/runs/c.1", base)  # no RUN.md there
    line.index.catch_up(line.tip)
    live = line.index.live(refs)
    assert set(live) == {"a.1"}
    assert live["a.1"].is_live
    assert live["a.1"].path == "tasks/a/runs/1/RUN.md"
    told = line.commit({"tasks/a/runs/1/RUN.md": ended("a.1", outcome="done")}, on=claim)
    refs.swap("refs/ravi/runs/a.1", told, claim)
    assert not line.index.live(refs)["a.1"].is_live
    line.commit({at("a"): None, "moved/TASK.md": task("a")})
    line.index.catch_up(line.tip)
    assert line.index.live(refs)["a.1"].outcome == "done"  # its task's file went elsewhere meanwhile
    line.commit({"tasks/a/runs/1/RUN.md": ended("a.1"), at("a"): task("a")}, {"Ravi-Run": "a.1"}, merging=(told,))
    line.index.catch_up(line.tip)
    assert line.index.live(refs) == {}


# -- files that are not as they should be


def test_a_file_that_cannot_be_read_keeps_its_row_as_a_draft_that_never_runs(line: Line) -> None:
    line.commit({at("a"): task("a", title="Was fine"), at("w"): task("w", depends_on="[a]")})
    line.commit({at("a"): "---\nid: a\ntitle: Was fine\nstatus: [open\n---\n"})
    card = line.says("a")
    assert (card["status"], card["title"]) == ("draft", "Was fine")
    assert card["problem"]
    with line.view() as view:
        found = view.task("a")
        assert found is not None
        assert found.problem
        (problem,) = view.problems()
        assert problem["path"] == at("a")
        assert problem["line"] > 0
        assert problem["severity"] == "error"
        assert view.status_of(replace(found, status="open", problem="")) == "open"
    assert line.says("w")["status"] == "waiting"
    line.commit({at("a"): b"\xff\xfe not text"})
    assert line.says("a")["problem"]
    line.commit({at("a"): task("a", status="done")})
    assert line.problems() == []
    assert line.statuses() == {"a": "done", "w": "open"}


def test_a_file_with_one_wrong_key_is_shown_with_all_the_others(line: Line) -> None:
    line.commit({at("a"): task("a", status="opne", assignee="bob", priority=4)})
    card = line.says("a")
    assert (card["status"], card["assignee"], card["priority"]) == ("draft", "bob", 4)
    assert "opne" in card["problem"]
    assert "did you mean `open`" in card["problem"]
    line.commit({at("a"): task("a", status="done", timeout="soon")})
    assert line.says("a")["status"] == "done"  # who waits for it need not wait for the key to be mended
    assert "timeout" in line.says("a")["problem"]


def test_a_conflicted_file_is_shown_as_conflicted(line: Line) -> None:
    ours, theirs = "status: open", "status: done"
    line.commit({at("a"): f"---\nid: a\n<<<<<<< HEAD\n{ours}\n=======\n{theirs}\n>>>>>>> other\n---\n# A\n"})
    assert "conflict" in line.says("a")["problem"]


def test_an_agent_that_cannot_be_read_is_there_with_its_problem(line: Line) -> None:
    line.commit({"agents/alice/AGENT.md": "---\nrunner: nonsense\n---\n"})
    with line.view() as view:
        agent = view.agent("alice")
        assert agent is not None
        assert "nonsense" in agent.problem


@pytest.mark.parametrize("is_followed", [True, False])
def test_the_id_belongs_to_the_file_that_had_it_first(line: Line, is_followed: bool) -> None:
    line.commit({"tasks/b/TASK.md": task("x")})
    if is_followed:
        line.index.catch_up(line.tip)
    line.commit({"tasks/a/TASK.md": task("x", status="done"), at("w"): task("w", depends_on="[x]")})
    with line.view() as view:
        found = view.task("x")
        assert found is not None
        assert (found.path, found.problem) == ("tasks/b/TASK.md", "")
        shown = {t["path"]: (t["status"], t["problem"]) for t in view.list_tasks(all=True) if t["id"] == "x"}
        assert shown == {
            "tasks/b/TASK.md": ("open", ""),
            "tasks/a/TASK.md": ("draft", "id: `x` belongs to tasks/b/TASK.md"),
        }
    assert line.says("w")["status"] == "waiting"
    line.commit({"tasks/b/TASK.md": None})
    with line.view() as view:
        assert [t.path for t in view.tasks()] == [at("w"), "tasks/a/TASK.md"]
        found = view.task("x")
        assert found is not None
        assert (found.path, found.problem) == ("tasks/a/TASK.md", "")
    assert line.says("w")["status"] == "open"
    assert line.problems() == []


def test_a_moved_file_keeps_its_id(line: Line) -> None:
    line.commit({"tasks/z/TASK.md": task("x"), at("w"): task("w", depends_on="[x]")})
    line.commit({"tasks/z/TASK.md": None, "tasks/a/deeper/TASK.md": task("x", status="done")})
    with line.view() as view:
        found = view.task("x")
        assert found is not None
        assert found.path == "tasks/a/deeper/TASK.md"
    assert line.statuses() == {"x": "done", "w": "open"}
    assert line.problems() == []


def test_a_file_without_an_id_is_shown_and_is_nobodys(line: Line) -> None:
    line.commit({"tasks/one/TASK.md": task("", title="No id"), "tasks/two/TASK.md": task("", title="None either")})
    with line.view() as view:
        assert view.tasks() == ()
        assert {(t["title"], t["status"], t["problem"]) for t in view.list_tasks()} == {
            ("No id", "draft", "id: has none yet"),
            ("None either", "draft", "id: has none yet"),
        }


def test_a_copied_folder_does_not_double_the_runs(line: Line) -> None:
    line.commit({at("a"): task("a"), "tasks/a/runs/1/RUN.md": ended("a.1")})
    line.commit({"tasks/copy/TASK.md": task("copy"), "tasks/copy/runs/1/RUN.md": ended("a.1")})
    with line.view() as view:
        assert [run.path for run in view.runs("a")] == ["tasks/a/runs/1/RUN.md"]
        assert view.runs("copy") == ()
        assert len(view.all_runs()) == 1
    assert line.says("copy")["runs"] == []


def test_circles_are_told_to_all_who_are_in_them_until_one_leaves(line: Line) -> None:
    line.commit(
        {
            at("a"): task("a", depends_on="[b]"),
            at("b"): task("b", depends_on="[c]"),
            at("c"): task("c"),
            at("tail"): task("tail", depends_on="[a]"),
            at("p"): task("p", parent="q"),
            at("q"): task("q"),
        }
    )
    assert line.problems() == []
    line.commit({at("c"): task("c", depends_on="[a]"), at("q"): task("q", parent="p")})
    assert line.problems() == [
        (at("a"), "depends_on", "goes in a circle: a -> b -> c -> a"),
        (at("b"), "depends_on", "goes in a circle: b -> c -> a -> b"),
        (at("c"), "depends_on", "goes in a circle: c -> a -> b -> c"),
        (at("p"), "parent", "goes in a circle: p -> q -> p"),
        (at("q"), "parent", "goes in a circle: q -> p -> q"),
    ]
    with line.view() as view:
        assert {t.id for t in view.tasks() if t.problem} == {"a", "b", "c", "p", "q"}
    line.commit({at("b"): task("b")})
    assert [p[0] for p in line.problems()] == [at("p"), at("q")]
    line.commit({at("p"): None})
    assert line.problems() == [(at("q"), "parent", "no task `p` in this workspace")]


def test_of_a_very_large_circle_only_the_size_is_told(line: Line) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}", depends_on=f"[t{(n + 1) % 3000}]") for n in range(3000)})
    with line.view() as view:
        assert {p["message"] for p in view.problems()} == {"goes in a circle of 3000 tasks"}
    line.commit({at("t7"): task("t7")})
    assert line.problems() == []


def test_half_a_character_is_a_problem_of_its_file_only(line: Line) -> None:
    line.commit({at("a"): task("a"), at("b"): task("b")})
    for text in (r'title: "\ud800"', 'labels: ["\\udc00"]', 'title: "\\uD83D"'):
        line.commit({at("a"): f"---\nid: a\nstatus: open\n{text}\n---\n"})
        assert line.statuses().keys() >= {"b"}
        assert [p[0] for p in line.problems()] in ([at("a")], [])
    line.commit({at("a"): task("a")})
    assert line.statuses() == {"a": "open", "b": "open"}
    assert line.problems() == []


def test_a_task_that_names_itself_is_a_mistake_in_its_file(line: Line) -> None:
    line.commit({at("a"): task("a", depends_on="[a]"), at("b"): task("b", parent="b")})
    assert {(p[0], p[1]) for p in line.problems()} >= {(at("a"), "depends_on"), (at("b"), "parent")}
    with line.view() as view:
        assert all(t.problem for t in view.tasks())


def test_a_slip_of_the_pen_in_the_assignee_is_told_until_there_is_such_an_agent(line: Line) -> None:
    line.commit(
        {"agents/alice/AGENT.md": AGENT, at("a"): task("a", assignee="alise"), at("b"): task("b", assignee="dora")}
    )
    said = "no agent `alise` in this workspace; did you mean `alice`?"
    assert line.problems() == [(at("a"), "assignee", said)]
    assert line.says("a")["problem"] == f"assignee: {said}"
    line.commit({"contacts/alise.md": "---\nname: Alise\n---\n"})
    assert line.problems() == []
    line.commit({"contacts/alise.md": None})
    assert line.problems() == [(at("a"), "assignee", said)]
    line.commit({"agents/alice/AGENT.md": None})
    assert line.problems() == []


def test_what_a_run_made_is_never_a_document(line: Line) -> None:
    line.commit(
        {
            at("a"): task("a"),
            "tasks/a/outputs/TASK.md": task("evil"),
            "tasks/a/outputs/x/comments/1.md": "evil",
            "tasks/a/runs/1/TASK.md": task("evil"),
            "tasks/a/runs/1/comments/1.md": "evil",
            "tasks/a/runs/x/RUN.md": ended("a.1"),
            "tasks/a/runs/1/deep/RUN.md": ended("a.1"),
            "other/TASK.md": task("evil"),
            "agents/x/deep/AGENT.md": AGENT,
            "TASK.md": task("evil"),
        }
    )
    with line.view() as view:
        assert [t.id for t in view.tasks()] == ["a"]
        assert view.runs("a") == ()
        assert view.comments("a") == ()
        assert view.agents() == ()
    assert line.problems() == []


def test_links_and_strange_names_are_problems_and_are_not_followed(line: Line) -> None:
    link = TreeEntry(LINK, line.objects.put_blob(b"../a/TASK.md"))
    program = TreeEntry(EXECUTABLE, line.objects.put_blob(task("x").encode()))
    strange = b"tasks/\xff\xfe/TASK.md".decode("utf-8", "surrogateescape")
    line.commit({at("a"): task("a"), at("l"): link, at("x"): program, strange: task("s")})
    assert sorted(line.statuses()) == ["a", "x"]
    assert line.problems() == [
        ("tasks/\\xff\\xfe/TASK.md", "", "its path is not UTF-8"),
        (at("l"), "", "is not a file; ravi follows no links"),
    ]
    line.commit({at("a"): link, at("l"): task("l"), strange: None})
    assert sorted(line.statuses()) == ["l", "x"]
    assert [p[0] for p in line.problems()] == [at("a")]


@pytest.mark.parametrize(
    "path",
    [
        "tasks/a/TASK.md", "tasks/TASK.md", "tasks/2026/11/20/x/TASK.md", "tasks/a/outputs/TASK.md",
        "tasks/a/runs/TASK.md",
        "tasks/a/runs/1/RUN.md", "tasks/a/runs/1/x/RUN.md", "tasks/a/comments/1.md", "tasks/a/runs/1/comments/1.md",
        "tasks/a/README.md", "tasks/outputs/x/TASK.md", "agents/a/AGENT.md", "agents/AGENT.md", "agents/a/b/AGENT.md",
        "tasks/runs/1/RUN.md", "TASK.md", "notes/TASK.md", "tasks/a/comments/x/1.md", "tasks/a/TASK.md/TASK.md",
    ],
)  # fmt: skip
def test_checks_and_lists_agree_on_what_lies_where(path: str) -> None:
    place = places.place_of(path)
    assert (place.kind if place else None) == schema.kind_of(path)


# -- how it follows


def test_only_what_differs_is_read(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}") for n in range(50)})
    line.index.catch_up(line.tip)
    line.commit({at("t7"): task("t7", status="done")})
    asked: list[str] = []
    blobs = line.objects.blobs
    monkeypatch.setattr(line.objects, "blobs", lambda oids: blobs([asked.append(oid) or oid for oid in oids]))  # type: ignore[func-returns-value]
    line.index.catch_up(line.tip)
    assert len(asked) == 1
    line.index.catch_up(line.tip)
    assert len(asked) == 1


def test_it_goes_backwards_and_sideways_as_well(line: Line) -> None:
    one = line.commit({at("a"): task("a")}, {"Ravi-Event": "event1"})
    two = line.commit({at("b"): task("b")}, {"Ravi-Event": "event2"})
    side = line.commit({at("c"): task("c")}, {"Ravi-Event": "event3"}, on=one)
    for commit, ids, events in ((two, "ab", "12"), (side, "ac", "13"), (one, "a", "1"), (two, "ab", "12")):
        line.index.catch_up(commit)
        with line.index.view() as view:
            assert "".join(t.id for t in view.tasks()) == ids
            assert "".join(n for n in "123" if view.seen(f"event{n}")) == events


def test_events_of_a_merged_branch_are_known_too(line: Line) -> None:
    root = line.commit({at("a"): task("a")})
    line.index.catch_up(root)
    one = line.commit({at("b"): task("b")}, {"Ravi-Event": "event1"}, on=root)
    two = line.commit({at("c"): task("c")}, {"Ravi-Event": "event2"}, on=one)
    line.commit({at("d"): task("d")}, {"Ravi-Event": "event3"})
    line.commit({at("b"): task("b"), at("c"): task("c")}, {"Ravi-Event": "event4"}, merging=(two,))
    with line.view() as view:
        assert all(view.seen(f"event{n}") for n in (1, 2, 3, 4))
        assert view.event_commit("event1") == one


def test_a_long_way_is_asked_of_git_and_says_the_same(line: Line) -> None:
    line.commit({at("a"): task("a")})
    line.index.catch_up(line.tip)
    for n in range(300):
        tree = line.objects.commit(line.tip).tree
        text = Message("x", "", {"Ravi-Event": f"e{n}"}).render()
        line.tip = line.objects.put_commit(tree, [line.tip], AUTHOR, AUTHOR, text)
    line.objects.flush()
    with line.view() as view:
        assert all(view.seen(f"e{n}") for n in range(300))


def test_an_index_of_a_commit_that_is_gone_is_made_anew(line: Line, tmp_path: Path) -> None:
    line.commit({at("a"): task("a")}, {"Ravi-Event": "event1"})
    clone = tmp_path / "clone"
    shell("update-ref", "refs/heads/main", line.tip, cwd=line.root)
    shell("clone", "--quiet", str(line.root), str(clone), cwd=tmp_path)
    there = opened(clone)
    lost = line.commit({at("b"): task("b")}, {"Ravi-Event": "event2"})
    line.index.catch_up(lost)
    line.index.close()
    first = shell("rev-parse", "refs/remotes/origin/main", cwd=clone)
    shutil.copy(line.path, tmp_path / "index.sqlite")
    with Index(str(tmp_path / "index.sqlite"), lambda: there.objects) as index, index.view(commit=first) as view:
        assert [t.id for t in view.tasks()] == ["a"]
        assert (view.seen("event1"), view.seen("event2")) == (True, False)
    there.close()


def test_a_shallow_clone_has_the_history_it_has(line: Line, tmp_path: Path) -> None:
    for n in range(4):
        line.commit({at(f"t{n}"): task(f"t{n}")}, {"Ravi-Event": f"event{n}"})
    shell("update-ref", "refs/heads/main", line.tip, cwd=line.root)
    shell("clone", "--quiet", "--depth=2", f"file://{line.root}", "shallow", cwd=tmp_path)
    there = opened(tmp_path / "shallow")
    with Index(str(tmp_path / "index.sqlite"), lambda: there.objects) as index, index.view(commit=line.tip) as view:
        assert len(view.tasks()) == 4
        assert [n for n in range(4) if view.seen(f"event{n}")] == [2, 3]
    there.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_it_says_what_an_index_made_from_nothing_says(line: Line, seed: int, tmp_path: Path) -> None:
    """A hundred random changes, some of them nonsense; after each the index that followed equals a new one."""
    chance = random.Random(seed)
    ids = [f"t{n}" for n in range(9)]

    def some(count: int) -> str:
        return f"[{', '.join(chance.sample(ids, chance.randrange(count)))}]"

    def document(id: str) -> str | bytes | None:
        match chance.randrange(12):
            case 0:
                return None
            case 1:
                return f"---\nid: {id}\ntitle: Broken {id}\nlabels: [a\n---\n"
            case 2:
                return task(id, status="opne", depends_on=some(3))
            case _:
                keys = {"status": chance.choice(["open", "open", "done", "failed", "draft"]), "depends_on": some(4)}
                keys |= {"parent": chance.choice(ids)} if chance.random() < 0.4 else {}
                keys |= {"waiting_on": some(3), "on_upstream_failure": chance.choice(["run", "block"])}
                keys |= {"assignee": chance.choice(["alice", "alise", "bob", ""]), "priority": str(chance.randrange(3))}
                keys |= {"labels": chance.choice(["[x]", "[x, y]", "[]"])}
                return task(id, " ".join(chance.choices(["alpha", "beta", "gamma"], k=2)), **keys)

    tips, steps = [""], times(40, 400)
    for step in range(steps):
        changes: dict[str, Any] = {}
        for _ in range(chance.randrange(1, 4)):
            id = chance.choice(ids)
            match chance.randrange(8):
                case 0:
                    changes[f"agents/{chance.choice(['alice', 'bob'])}/AGENT.md"] = chance.choice(
                        [AGENT, None, "---\n[\n---"]
                    )
                case 1:
                    n = chance.randrange(1, 4)
                    data = ended(
                        f"{id}.{n}", chance.choice(["failed", "succeeded"]), retry_at="2099-01-01T00:00:00.000Z"
                    )
                    changes[f"tasks/{id}/runs/{n}/RUN.md"] = chance.choice([data, None])
                case 2:
                    changes[f"tasks/{id}/comments/{chance.randrange(3)}.md"] = chance.choice(
                        ["words", "other words", None]
                    )
                case 3:
                    changes["contacts/alise.md"] = chance.choice(["---\nname: A\n---\n", None])
                case _:
                    changes[at(id)] = document(id)
        base = chance.choice(tips[-4:]) if chance.random() < 0.2 else line.tip
        side = (chance.choice([t for t in tips if t]),) if chance.random() < 0.1 and len(tips) > 1 else ()
        line.tip = line.commit(changes, {"Ravi-Event": f"event{step}"}, on=base, merging=side)
        tips.append(line.tip)
        if chance.random() < 0.7:  # sometimes several commits at once
            told = everything(line.index, line.tip)
            fresh = Index(str(tmp_path / f"fresh{step}.sqlite"), lambda: line.objects)
            anew = everything(fresh, line.tip)
            assert {k: v for k, v in told.items() if v != anew[k]} == {k: v for k, v in anew.items() if v != told[k]}
            fresh.close()


# -- several at once


def test_a_view_stands_still_while_another_catches_up(line: Line) -> None:
    first = line.commit({at("a"): task("a")}, {"Ravi-Event": "event1"})
    with line.view() as view, Index(line.path, lambda: line.objects) as other:
        second = line.commit({at("a"): None, at("b"): task("b")}, {"Ravi-Event": "event2"})
        other.catch_up(second)
        assert view.commit == first
        assert [t.id for t in view.tasks()] == ["a"]
        assert view.has(at("a"))
        assert not view.seen("event2")
        with line.index.view() as later:
            assert later.commit == second
            assert [t.id for t in later.tasks()] == ["b"]
        assert [t["id"] for t in view.list_tasks()] == ["a"]


def test_views_of_many_threads_are_each_of_one_commit(line: Line) -> None:
    """Each commit has as many tasks as its number; a view that mixed two would not."""
    commits = [line.commit({at(f"t{n}"): task(f"t{n}")}, {"Ravi-Event": f"e{n}"}) for n in range(12)]
    faults: list[BaseException] = []

    def look(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(25):
                n = chance.randrange(len(commits))
                with line.index.view(commit=commits[n]) as view:
                    assert len(view.tasks()) == n + 1
                    assert view.seen(f"e{n}")
                    assert not view.seen(f"e{n + 1}")
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


FOLLOW = """
import random, sys
from workshop import opened
from pathlib import Path
from ravi.store.index import Index
root, seed, *commits = sys.argv[1:]
store = opened(Path(root))
index = Index(root + "/.ravi/index.sqlite", lambda: store.objects)
chance = random.Random(int(seed))
for _ in range(15):
    n = chance.randrange(len(commits))
    with index.view(commit=commits[n]) as view:
        assert len(view.tasks()) == n + 1, (len(view.tasks()), n)
        assert view.seen(f"e{n}") and not view.seen(f"e{n + 1}")
index.close()
store.close()
print("fine")
"""


def test_processes_share_one_file(line: Line) -> None:
    commits = [line.commit({at(f"t{n}"): task(f"t{n}")}, {"Ravi-Event": f"e{n}"}) for n in range(10)]
    started = [
        subprocess.Popen(
            python(FOLLOW, line.root, seed, *commits), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in range(4)
    ]
    for process in started:
        assert process.communicate(timeout=60) == ("fine\n", "")


# -- what it survives


def test_a_folder_removed_under_it_is_made_anew(line: Line) -> None:
    line.commit({at("a"): task("a")})
    with line.view() as view:
        shutil.rmtree(line.root / ".ravi")
        assert [t.id for t in view.tasks()] == ["a"]  # a view keeps what it holds
        assert line.statuses() == {"a": "open"}
        assert os.path.exists(line.path)
    line.commit({at("b"): task("b")})
    os.unlink(line.path)
    assert line.statuses() == {"a": "open", "b": "open"}


def test_a_file_replaced_under_it_is_noticed(line: Line, tmp_path: Path) -> None:
    line.commit({at("a"): task("a")})
    assert line.statuses() == {"a": "open"}
    other = Index(str(tmp_path / "other.sqlite"), lambda: line.objects)
    line.commit({at("b"): task("b")})
    other.catch_up(line.tip)
    other.close()
    os.replace(tmp_path / "other.sqlite", line.path)
    assert line.statuses() == {"a": "open", "b": "open"}


def test_a_journal_left_by_a_removed_file_is_not_played_into_the_next(line: Line) -> None:
    line.commit({at("a"): task("a")})
    line.index.catch_up(line.tip)
    shutil.copy(f"{line.path}-wal", f"{line.path}.kept")
    line.index.close()
    os.unlink(line.path)
    shutil.move(f"{line.path}.kept", f"{line.path}-wal")
    line.commit({at("b"): task("b")})
    assert line.statuses() == {"a": "open", "b": "open"}
    assert sqlite3.connect(line.path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("damage", ["garbage", "empty", "header", "middle", "truncated", "text", "no tables"])
def test_a_damaged_file_is_made_anew(line: Line, damage: str) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}", "words " * 200) for n in range(60)})
    line.index.catch_up(line.tip)
    line.index.close()
    data = bytearray(Path(line.path).read_bytes())
    match damage:
        case "garbage":
            data[:] = random.Random(1).randbytes(len(data))
        case "empty":
            data.clear()
        case "header":
            data[0:100] = bytes(100)
        case "middle":
            data[4096:] = random.Random(1).randbytes(len(data) - 4096)
        case "truncated":
            del data[len(data) // 2 :]
        case "text":
            data[:] = b"this is no database\n" * 500
        case "no tables":
            os.unlink(line.path)
            sqlite3.connect(line.path).execute(f"PRAGMA user_version = {FORMAT}").connection.close()
            data = bytearray(Path(line.path).read_bytes())
    Path(line.path).write_bytes(data)
    line.commit({at("t0"): task("t0", status="done")})
    assert line.statuses() == {f"t{n}": "done" if n == 0 else "open" for n in range(60)}


def test_damage_that_only_a_view_finds_is_mended_under_it(line: Line) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}", "words " * 200) for n in range(60)})
    line.index.catch_up(line.tip)
    line.index.close()
    with open(line.path, "r+b") as file:
        file.seek(4096 * 3)
        file.write(random.Random(1).randbytes(os.path.getsize(line.path) - 4096 * 3))
    with line.view() as view:
        assert len(view.list_tasks()) == 60
        assert len(view.tasks()) == 60
        assert view.commit == line.tip


def test_another_format_is_made_anew(line: Line) -> None:
    line.commit({at("a"): task("a")})
    line.index.catch_up(line.tip)
    line.index.close()
    db = sqlite3.connect(line.path)
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.execute("DROP TABLE tasks")
    db.commit()
    db.close()
    assert line.statuses() == {"a": "open"}


def test_a_change_of_a_noun_is_a_change_of_format() -> None:
    """When this fails, raise FORMAT in ravi/store/index_tables.py and put the new sum here."""
    told = repr([[(f.name, str(f.type)) for f in fields(noun)] for noun in (Task, Run, Agent, Comment)])
    assert (FORMAT, hashlib.sha256(told.encode()).hexdigest()[:8]) == (2, "67cfdfde")


BUILD = """
import sys
from pathlib import Path
from workshop import opened
from ravi.store.index import Index
from ravi.store import index_update
root, commit = sys.argv[1:]
store = opened(Path(root))
put, count = index_update._Update._put_task, 0
def slowly(*args, **kw):
    global count
    put(*args, **kw)
    count += 1
    if count == 700:
        print("half", flush=True)
        sys.stdin.read()
index_update._Update._put_task = slowly
Index(root + "/.ravi/index.sqlite", lambda: store.objects).catch_up(commit)
"""


def test_a_process_killed_while_it_builds_leaves_nothing_wrong(line: Line) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}") for n in range(1500)})
    half = subprocess.Popen(
        python(BUILD, line.root, line.tip), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert half.stdout is not None
    assert half.stdout.readline() == "half\n"
    half.send_signal(signal.SIGKILL)
    half.wait()
    assert half.stdin is not None
    half.stdin.close()
    half.stdout.close()
    start = time.monotonic()
    assert len(line.statuses()) == 1500
    assert time.monotonic() - start < 30


FULL = """
import resource, signal, sys
from pathlib import Path
from workshop import opened
from ravi.errors import Unavailable
from ravi.store.index import Index
root, commit = sys.argv[1:]
store = opened(Path(root))
store.objects.commit(commit)
index = Index(root + "/.ravi/index.sqlite", lambda: store.objects)
assert index.at() == ""
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    index.catch_up(commit)
except Unavailable as fault:
    print("said")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
index.catch_up(commit)
with index.view() as view:
    print(len(view.tasks()))
"""


def test_a_disk_without_room_is_said_and_forgotten_when_there_is_room(line: Line) -> None:
    line.commit({at(f"t{n}"): task(f"t{n}", "words " * 100) for n in range(600)})
    done = subprocess.run(python(FULL, line.root, line.tip), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("said\n600\n", "")


def test_a_place_that_cannot_be_written_is_said(line: Line) -> None:
    line.commit({at("a"): task("a")})
    (line.root / ".ravi").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match=r"index\.sqlite: File exists"):
        line.index.catch_up(line.tip)


def test_a_list_imports_neither_yaml_nor_git_nor_processes(line: Line) -> None:
    line.commit({at("a"): task("a")})
    line.index.catch_up(line.tip)
    code = """
import sys
from ravi.store.index import Index
with Index(sys.argv[1], lambda: None) as index:
    print([t["id"] for t in index.list_tasks(text="about", status="open")], index.resolve("a"))
heavy = {"yaml", "git", "subprocess", "asyncio", "watchdog"}
heavy |= {"ravi.core.document", "ravi.core.task", "ravi.store.objects"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(python(code, line.path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("['a'] a\n[]\n", "")
