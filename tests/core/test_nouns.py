"""Tasks, runs and agents, as their documents say them."""

from dataclasses import MISSING, fields
from typing import Any

import pytest

from ravi.core import agent, run, task
from ravi.core.field import Table
from ravi.errors import Malformed

PATH = "tasks/2026/11/20/fix-login-7f3k2a/TASK.md"


def front(**values: Any) -> dict[str, Any]:
    return values


def test_a_task_says_what_its_file_says() -> None:
    data = b"""---
id: fix-login-7f3k2a
title: Fix the login
status: open
assignee: alice
priority: 2
labels: [auth, ui]
due: 2026-12-01
parent: app
depends_on:
  - design
on_upstream_failure: run
links: {related: [a, b], duplicates: c}
checks:
  - just test
  - command: [pytest, -q]
  - agent: critic
report_to: [session:main, "task:app", "https://example.org/x"]
report_on: done, failed
repo: ../app
keep: yes
inputs: {version: 1.10}
timeout: 90m
attempts: 5
backoff: 500ms
checkpoint: 10m
budget: $2.50
created: 2026-11-20T10:00:00Z
color: blue
---
Do it.
"""
    found = task.parse(PATH, data)
    assert found == task.Task(
        id="fix-login-7f3k2a",
        title="Fix the login",
        status="open",
        assignee="alice",
        priority=2,
        labels=("auth", "ui"),
        due="2026-12-01",
        parent="app",
        depends_on=("design",),
        on_upstream_failure="run",
        links={"related": ("a", "b"), "duplicates": ("c",)},
        checks=({"command": "just test"}, {"command": ["pytest", "-q"]}, {"agent": "critic"}),
        report_to=("session:main", "task:app", "https://example.org/x"),
        report_on=("done", "failed"),
        repo="../app",
        keep=True,
        inputs={"version": "1.10"},
        timeout=5400.0,
        attempts=5,
        backoff=0.5,
        checkpoint=600.0,
        budget={"usd": 2.5},
        created="2026-11-20T10:00:00Z",
        path=PATH,
        body="Do it.\n",
        has_checks=True,
    )
    assert found.folder == "tasks/2026/11/20/fix-login-7f3k2a"
    assert not found.is_closed


def test_a_file_with_nothing_but_words_is_a_draft_without_an_id() -> None:
    found = task.parse("tasks/buy milk/TASK.md", b"We are out of it.\n")
    assert (found.id, found.status, found.title) == ("", "draft", "buy milk")


@pytest.mark.parametrize(
    ("values", "body", "title"),
    [
        (front(title="Said"), "# Heading", "Said"),
        (front(title=2026), "", "2026"),
        (front(title=True), "", "true"),
        (front(title=None), "text\n\n## The heading ##\n# Another", "The heading"),
        (front(title="  "), "```sh\n# no heading\n```\n# Yes", "Yes"),
        (front(), "# C# and F#\n", "C# and F#"),
        (front(), "# a" + " " * 50_000 + "b" + "#" * 50_000 + "x", "a" + " " * 50_000 + "b" + "#" * 50_000 + "x"),
        (front(id="a"), "#no heading\n# \n## #", "a"),
        (front(), "", "fix-login-7f3k2a"),
    ],
)
def test_a_title_is_said_or_the_first_heading_or_the_id_or_the_folder(
    values: dict[str, Any], body: str, title: str
) -> None:
    assert task.read(PATH, values, body).title == title


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (front(status="opne"), "status", "`opne` is not a known status; did you mean `open`?"),
        (front(status="Done"), "status", "did you mean `done`?"),
        (front(status="canceled"), "status", "did you mean `cancelled`?"),
        (front(status="todo"), "status", "did you mean `open`?"),
        (front(status="xyz"), "status", "write one of draft, open, blocked, review, done, failed, cancelled"),
        (front(status="running"), "status", "never written"),
        (front(status=["open"]), "status", "is a list; write one text"),
        (front(id="../x"), "id", "cannot be an id"),
        (front(id="😀"), "id", "cannot be an id"),
        (front(id="a\x1b[31m"), "id", "`a\ufffd[31m`"),
        (front(id="A"), "id", "cannot be an id"),
        (front(parent="a/b"), "parent", "cannot be an id"),
        (front(id="a", parent="a"), "parent", "is the task itself"),
        (front(id="a", depends_on=["b", "a"]), "depends_on", "names the task itself"),
        (front(depends_on={"a": 1}), "depends_on", "is a mapping; write a list"),
        (front(links=["a"]), "links", "write a mapping"),
        (front(assignee="../x"), "assignee", "cannot be a name"),
        (front(priority="high"), "priority", "is not a whole number"),
        (front(priority=True), "priority", "is not a whole number"),
        (front(due="soon"), "due", "is not a time"),
        (front(timeout=30), "timeout", "30 of what? write 30s, 30m or 30h"),
        (front(timeout="1 hour"), "timeout", "write 500ms, 30s, 5m, 2h or 1d"),
        (front(timeout="0s"), "timeout", "too small"),
        (front(attempts=0), "attempts", "at least 1"),
        (front(attempts="1.5"), "attempts", "is not a whole number"),
        (front(on_upstream_failure="continue"), "on_upstream_failure", "not a known on upstream failure"),
        (front(report_to="alice"), "report_to", "is no place to report to"),
        (front(report_on=["done", "faild"]), "report_on", "did you mean `failed`?"),
        (front(checks=[{"cmd": "x"}]), "checks", "each check names one of"),
        (front(budget="lots"), "budget", "write $2.50, or 50000 tokens"),
        (front(budget={"usd": "many"}), "budget", "is no budget"),
        (front(keep="maybe"), "keep", "neither true nor false"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_right(values: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(Malformed) as fault:
        task.read(PATH, values, "", {key: 7})
    assert words in fault.value.message
    assert (fault.value.path, fault.value.line, fault.value.key) == (PATH, 7, key)


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        (front(labels="a, b ,a"), "labels", ("a", "b")),
        (front(labels=[1, None, "1.10"]), "labels", ("1", "1.10")),
        (front(depends_on="a"), "depends_on", ("a",)),
        (front(report_to="chat:whatsapp/5511@c.us"), "report_to", ("chat:whatsapp/5511@c.us",)),
        (front(attempts="007"), "attempts", 7),
        (front(backoff=0), "backoff", 0.0),
        (front(budget="50000 tokens"), "budget", {"tokens": 50000.0}),
        (front(budget={"usd": "0.5", "tokens": 3}), "budget", {"usd": 0.5, "tokens": 3}),
        (front(checks="just test"), "checks", ({"command": "just test"},)),
        (front(keep="off"), "keep", False),
        (front(summary="a\nb"), "summary", "a\nb"),
        (front(waiting_on=["an answer, soon"]), "waiting_on", ("an answer, soon",)),
        (front(timeout=None), "timeout", 3600.0),
        (front(assignee="José Silva"), "assignee", "José Silva"),
    ],
)
def test_what_can_only_mean_one_thing_is_taken_for_it(values: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(task.read(PATH, values, ""), name) == value


def test_a_run_says_what_its_file_says_and_its_path_the_rest() -> None:
    found = run.read("tasks/a/b/login/runs/3/RUN.md", {"agent": "alice", "usage": {"usd": "0.25", "tokens": 12}}, "x")
    assert (found.id, found.task, found.number, found.usage) == ("login.3", "login", 3, {"usd": 0.25, "tokens": 12})
    assert found.is_live


def test_a_run_is_rendered_and_read_back() -> None:
    said = run.Run(
        id="login.2",
        task="login",
        agent="alice",
        attempt=2,
        status=run.FAILED,
        started="2026-11-20T10:00:00.000Z",
        base="0" * 40,
        exit=0,
        reason="exited with 3: \0 no",
        usage={"usd": 0.5},
        woken_by=("a", "b"),
        refused=("x: not granted",),
        depth=3,
        path="tasks/login/runs/2/RUN.md",
        text="last \ud800 words\n---\nid: other\n",
    )
    found = run.parse(said.path, run.render(said))
    assert found.text.strip() == "last \ufffd words\n---\nid: other"
    assert found.reason == "exited with 3: \ufffd no"
    for name in run.TABLE.by_name:
        assert name == "reason" or getattr(found, name) == getattr(said, name)


@pytest.mark.parametrize("name", ["login", "login.0", "login.x", "../x.1", "login.1.lock"])
def test_a_runs_id_is_its_tasks_and_a_number(name: str) -> None:
    with pytest.raises(Malformed, match="cannot be a run's id"):
        run.read("tasks/login/runs/1/RUN.md", {"id": name}, "")


def test_an_agent_is_named_by_its_folder() -> None:
    keys = b"runner: command\ncommand: [./work.sh, 1.10]\nenv: {A: 1, B: }\npermissions: {write: [notes/**]}\n"
    found = agent.parse("agents/alice/AGENT.md", b"---\n" + keys + b"---\nBe kind.\n")
    assert found == agent.Agent(
        name="alice",
        command=("./work.sh", "1.10"),
        env={"A": "1", "B": ""},
        permissions={"write": ["notes/**"]},
        path="agents/alice/AGENT.md",
        instructions="Be kind.",
    )
    assert found.writes == ("notes/**",)


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (front(), "command", "is missing"),
        (front(runner="comand"), "runner", "did you mean `command`?"),
        (front(runner="command", command="echo 'x"), "command", "quote without its partner"),
        (front(runner="command", command=[]), "command", "names no program"),
        (front(runner="scripted", permissions={"wirte": []}), "permissions", "did you mean `write`?"),
        (front(runner="scripted", env={"a b": "c"}), "env", "name of a variable"),
        (front(runner="scripted", sandbox="maybe"), "sandbox", "write one of required, preferred, none"),
        (front(runner="scripted", concurrency=0), "concurrency", "at least 1"),
        (front(runner="scripted", script=[["a"]]), "script", "each step is a mapping"),
    ],
)
def test_a_wrong_agent_is_refused(values: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(Malformed, match=words.replace("?", r"\?")) as fault:
        agent.read("agents/alice/AGENT.md", values, "")
    assert fault.value.key == key


def test_a_command_may_be_one_text() -> None:
    values = front(command='sh -c "echo hi"', script=["hello", {"wait": "1s"}])
    found = agent.read("agents/a/AGENT.md", values, "")
    assert found.command == ("sh", "-c", "echo hi")
    assert len(found.script) == 2


@pytest.mark.parametrize(("table", "noun"), [(task.TABLE, task.Task), (run.TABLE, run.Run), (agent.TABLE, agent.Agent)])
def test_tables_and_nouns_agree(table: Table, noun: Any) -> None:
    made = noun(**{field.name: "x" for field in fields(noun) if field.default is field.default_factory is MISSING})
    for field in table.fields:
        assert field.name in {known.name for known in fields(noun)}
        if field.default is not None:
            assert field.read(field.default) == getattr(made, field.name)
