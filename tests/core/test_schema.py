"""Mistakes in documents, each with its line; and the JSON Schemas that editors use."""

import json
from typing import Any

import pytest

from ravi.core import schema
from ravi.core.document import parse
from ravi.core.schema import Problem, check, check_links, json_schema, kind_of, lenient_task
from ravi.core.task import Task


def test_every_mistake_of_a_document_is_told_with_its_line() -> None:
    found = parse(b"---\nid: ../x\nstatus: opne\n# note\ntimeout: 30\nlables: [a]\ncolor: blue\n---\n")
    assert check("task", found, "t/TASK.md") == (
        Problem(2, "id", "`../x` cannot be an id; use a-z, 0-9, `-`, `_`, `.`, at most 64", "error", "t/TASK.md"),
        Problem(3, "status", "`opne` is not a known status; did you mean `open`?", "error", "t/TASK.md"),
        Problem(5, "timeout", "30 of what? write 30s, 30m or 30h", "error", "t/TASK.md"),
        Problem(6, "lables", "is not a key ravi knows; did you mean `labels`?", "warning", "t/TASK.md"),
    )


def test_what_is_wrong_between_fields_is_told_too() -> None:
    assert [p.key for p in check("task", parse(b"---\nid: a\nparent: a\ndepends_on: [a]\n---\n"))] == [
        "parent",
        "depends_on",
    ]
    assert [p.message for p in check("agent", parse(b"---\nmodel: x\n---\n"))] == [
        "is missing; write `command: [program, argument]`, or another runner"
    ]


def test_a_body_with_conflict_markers_is_a_warning_at_its_line() -> None:
    found = parse(b"---\nid: a\n---\ntext\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> theirs\n")
    assert check("task", found) == (Problem(5, "", "has conflict markers", "warning"),)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("name: home\nquiet: 2s\nnats: off\nmax_runs: 8\nlimits: {depth: 5}\ndefaults: {timeout: 2h}\n", []),
        ("ingest: never\nquiet: 3\nmax_runs: -1\n", ["ingest", "quiet", "max_runs"]),
        ("limits: {depth: 0}\ndefaults: {timeout: 2}\n", ["limits", "defaults"]),
        ("limits: [1]\ndefaults: x\n", ["limits", "defaults"]),
        ("max_run: 3\n", ["max_run"]),
    ],
)
def test_settings_are_checked(text: str, keys: list[str]) -> None:
    assert [problem.key for problem in check("workspace", parse(text.encode(), "ravi.yaml"))] == keys


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("ravi.yaml", "workspace"),
        ("agents/alice/AGENT.md", "agent"),
        ("agents/alice/notes/AGENT.md", None),
        ("tasks/a/TASK.md", "task"),
        ("tasks/TASK.md", "task"),
        ("tasks/2026/11/20/a/TASK.md", "task"),
        ("tasks/a/b/TASK.md", "task"),
        ("tasks/a/outputs/TASK.md", None),
        ("tasks/a/outputs/x/comments/y.md", None),
        ("tasks/a/runs/1/RUN.md", "run"),
        ("tasks/a/runs/1/TASK.md", None),
        ("tasks/a/runs/RUN.md", None),
        ("tasks/a/comments/x.md", "comment"),
        ("tasks/a/comments/x.txt", None),
        ("notes/TASK.md", None),
        ("README.md", None),
    ],
)
def test_the_path_says_what_kind_of_document_it_is(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_a_task_with_mistakes_is_read_as_far_as_it_goes() -> None:
    found = parse(b"---\nid: a\nstatus: opne\ntimeout: 30\nparent: a\ntitle: T\n---\n")
    one = lenient_task("tasks/a/TASK.md", found)
    assert (one.id, one.title, one.status, one.parent) == ("a", "T", "draft", "")
    assert one.problem == "tasks/a/TASK.md:3: status: `opne` is not a known status; did you mean `open`?"


def _task(name: str, **values: Any) -> Task:
    return Task(name, path=f"tasks/{name}/TASK.md", **values)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ([_task("a"), _task("b", parent="a", depends_on=("a",), assignee="alice")], []),
        ([_task("a", parent="a")], [("a", "parent", "error", "is the task itself")]),
        ([_task("a", depends_on=("a",))], [("a", "depends_on", "error", "names the task itself")]),
        ([_task("a", parent="no-such")], [("a", "parent", "warning", "no task `no-such` in this workspace")]),
        ([_task("login"), _task("b", depends_on=("logn",))],
         [("b", "depends_on", "warning", "no task `logn` in this workspace; did you mean `login`?")]),
        ([_task("a", assignee="alise")],
         [("a", "assignee", "error", "no agent `alise` in this workspace; did you mean `alice`?")]),
        ([_task("a", assignee="jo")], []),
        ([_task("a", assignee="Maria")],
         [("a", "assignee", "warning", "no agent or contact `Maria` in this workspace")]),
        ([_task("a", depends_on=("b",)), _task("b", depends_on=("a",))],
         [("a", "depends_on", "error", "goes in a circle: a -> b -> a")]),
        ([_task("c", parent="b"), _task("b", parent="a"), _task("a", parent="c")],
         [("a", "parent", "error", "goes in a circle: a -> c -> b -> a")]),
        ([_task("a", depends_on=("b", "c")), _task("b", depends_on=("d",)), _task("c", depends_on=("d",)), _task("d")],
         []),
        ([Task("a", path="tasks/x/TASK.md"), Task("a", path="tasks/y/TASK.md"), Task("", path="tasks/z/TASK.md")],
         [("y", "id", "error", "`a` is the id of tasks/x/TASK.md too; remove the line to get a new one")]),
    ],
)  # fmt: skip
def test_what_is_wrong_between_documents_is_told(tasks: list[Task], told: list[tuple[str, ...]]) -> None:
    problems = check_links(tasks, {"alice"}, {"jo"})
    assert [(p.path.split("/")[1], p.key, p.severity, p.message) for p in problems] == told


def test_a_chain_as_long_as_a_workspace_is_large_is_no_trouble() -> None:
    tasks = [_task(f"t{n}", depends_on=(f"t{n + 1}",)) for n in range(5000)] + [_task("t5000")]
    assert check_links(tasks, ()) == ()
    (problem,) = check_links([*tasks[:-1], _task("t5000", depends_on=("t0",))], ())
    assert problem.message.startswith("goes in a circle: t0 -> t1 -> ")


@pytest.mark.parametrize("kind", schema.KINDS)
def test_each_kind_has_a_json_schema_that_says_something_about_every_key(kind: str) -> None:
    found = json_schema(kind)
    assert json.loads(json.dumps(found)) == found
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["additionalProperties"] is True
    for name, property_ in found["properties"].items():
        assert property_["description"].endswith("."), name
    assert set(found["properties"]) == set(schema.TABLES[kind].by_name)


def test_the_schema_of_a_task_knows_its_words_and_defaults() -> None:
    properties = json_schema("task")["properties"]
    assert properties["status"]["enum"] == ["draft", "open", "blocked", "review", "done", "failed", "cancelled", None]
    assert properties["timeout"]["default"] == "1h"
    assert properties["attempts"] == {
        "description": "Tries before it has failed.",
        "type": ["integer", "null"],
        "minimum": 1,
        "default": 3,
    }
