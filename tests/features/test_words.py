"""What the command line says when a person's words are off, and in surroundings that are poor."""

import os
import pty
import subprocess
import sys

import pytest

from ravi.core import task
from ravi.store.index_view import SHOWN


def _shell(workspace, command, **env):
    """A line of shell in the workspace; `$RAVI` is ravi."""
    environ = {**workspace.environ, "RAVI": f"{sys.executable} -m ravi", **env}
    return subprocess.run(["sh", "-c", command], cwd=workspace.root, env=environ, capture_output=True, timeout=99)


def _edited(workspace, id, script):
    """`ravi tasks edit ID` on a terminal, with an editor that runs sed."""
    editor = workspace.write("editor.sh", f'#!/bin/sh\nsed -i.old "{script}" "$1" && rm "$1.old"\n', 0o755)
    theirs, ours = pty.openpty()
    try:
        return subprocess.run(
            [sys.executable, "-m", "ravi", "tasks", "edit", id], cwd=workspace.root, stdin=ours, text=True,
            env={**workspace.environ, "VISUAL": str(editor), "EDITOR": str(editor)}, capture_output=True, timeout=99,
        )  # fmt: skip
    finally:
        os.close(theirs)
        os.close(ours)


def test_a_bare_repository_is_no_place_for_a_workspace(tmp_path, workspace):
    bare = tmp_path / "bare.git"
    workspace.git("init", "-q", "--bare", str(bare))
    before = sorted(os.listdir(bare))
    for folder in (bare, bare / "inside"):
        told = workspace.run("init", str(folder), code=5)
        assert f"{bare} is a repository without files" in told.err
        assert "git clone" in told.err
    assert sorted(os.listdir(bare)) == before


def test_poor_surroundings_change_the_spelling_and_not_the_outcome(workspace):
    workspace.task("rice", "ann", "title: お米を買う 🍚\n")
    workspace.up()
    closed = _shell(workspace, "$RAVI tasks >&-; $RAVI tasks >&- 2>&- <&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"")
    for env in ({"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        assert b"\\u304a" in _shell(workspace, "$RAVI tasks", PYTHONCOERCECLOCALE="0", **env).stdout
        assert _shell(workspace, "$RAVI tree rice", **env).returncode == 0
        fault = _shell(workspace, "$RAVI tasks show rice.9 --json", PYTHONCOERCECLOCALE="0", **env)
        assert fault.returncode == 4
    in_json = _shell(workspace, "$RAVI tasks --json", PYTHONIOENCODING="ascii").stdout.decode()
    assert "お米を買う 🍚" in in_json, "JSON is UTF-8 in any locale"


def test_the_version_is_told_in_json_too(workspace):
    line = workspace.run("--version").out.split()
    for words in (("--version", "--json"), ("--json", "--version"), ("-C", "/nowhere", "--version", "--json")):
        assert workspace.run(*words).json == {"version": line[1]}
    assert workspace.run("-C", "/nowhere", "--version").out.split() == line


def test_the_status_names_the_key_of_a_problem(workspace):
    workspace.task("bad", "ann", "priority: high\n")
    workspace.up()
    for words in ("status", "check"):
        assert "tasks/bad/TASK.md:5: priority: " in workspace.run(words, code=int(words == "check")).out


@pytest.fixture
def planned(workspace):
    """A task of a person's, with every key that can be emptied."""
    workspace.run("tasks", "new", "First", "--id", "first")
    workspace.run(
        "tasks", "new", "Plan", "--id", "plan", "-a", "ann", "-l", "x", "--due", "2030-01-01", "-d", "first", "-p",
        "first", "--report-to", "task:first", "--priority", "4",
    )  # fmt: skip
    return workspace


def test_an_empty_value_takes_a_key_away(planned):
    empty = ("-a", "", "-l", "", "--due", "", "-d", "", "-p", "", "--report-to", "", "--priority", "0")
    told = planned.json("tasks", "edit", "plan", *empty)
    assert [told[key] for key in ("assignee", "labels", "due", "depends_on", "parent", "report_to", "priority")] == [
        "", [], "", [], "", [], 0,
    ]  # fmt: skip
    text = planned.read(told["path"])
    for key in ("assignee", "labels", "due", "depends_on", "parent", "report_to"):
        assert f"\n{key}:" not in text
    assert planned.json("tasks", "new", "Next", "-l", "", "-a", "", "--due", "")["labels"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--title", ""), "the title of a task cannot be empty"),
        (("--title", "  "), "the title of a task cannot be empty"),
        (("--status", ""), "the status of a task cannot be empty"),
        (("--set", "id=zzz"), "ids never change"),
        ((), "nothing to change, and no terminal for an editor"),
    ],
)
def test_an_edit_that_cannot_be_meant_is_refused(planned, words, said):
    before = planned.git("rev-parse", "refs/ravi/main")
    assert said in planned.run("tasks", "edit", "plan", *words, code=2, input="").err
    assert planned.git("rev-parse", "refs/ravi/main") == before


def test_a_status_that_does_not_exist_is_not_an_empty_list(planned):
    assert "did you mean `open`?" in planned.run("tasks", "list", "-s", "opne", code=2).err
    assert "there are: draft, open" in planned.run("tasks", "list", "-s", "bogus", "--json", code=2).err
    assert "did you mean `succeeded`?" in planned.run("runs", "-s", "suceeded", code=2).err
    planned.run("tasks", "done", "first")
    assert [t["id"] for t in planned.json("tasks", "list", "-s", "done, open")] == ["plan", "first"]
    for words in (("tasks",), ("runs",), ("log",)):
        assert "-1 is not in the range" in planned.run(*words, "-n", "-1", code=2).err


def test_the_statuses_that_lists_know_are_those_of_tasks():
    assert (*task.STATUSES, task.RUNNING, task.WAITING) == SHOWN


def test_a_name_that_is_almost_an_agents_is_warned_of(workspace):
    workspace.agent("greeter", "echo hi\n")
    workspace.up()
    warning = "warning: no agent `greter`; did you mean `greeter`? a person has it then\n"
    made = workspace.run("tasks", "new", "x", "--id", "x", "-a", "greter")
    assert made.err == warning
    assert workspace.run("tasks", "edit", "x", "--priority", "3").err == ""
    assert workspace.run("tasks", "edit", "x", "-a", "greter").err == warning
    assert workspace.run("tasks", "edit", "x", "-a", "greter", "--json").err == ""
    assert workspace.run("tasks", "edit", "x", "-a", "ann").err == ""


def test_a_mistake_saved_in_the_editor_is_told(planned):
    told = _edited(planned, "plan", "s/^status: open/status: opne/")
    assert told.returncode == 1
    assert "TASK.md:5: status: `opne`" in told.stderr
    assert "`ravi tasks edit plan`" in told.stderr
    mended = _edited(planned, "plan", "s/^status: opne/status: review/")
    assert (mended.returncode, mended.stdout) == (0, "plan  review  Plan\n"), mended.stderr


def test_a_task_that_is_done_opens_again_and_runs(workspace):
    workspace.agent("writer", "echo written\n")
    workspace.task("greet", "writer")
    workspace.up()
    assert "no run `nope`" in workspace.run("dead", "retry", "nope", code=4).err
    assert "`ravi tasks retry greet`" in workspace.run("dead", "retry", "greet", code=5).err
    assert "`ravi tasks retry greet`" in workspace.run("tasks", "done", "greet", code=5).err
    assert workspace.json("tasks", "retry", "greet")["summary"] == ""
    workspace.run("tasks", "retry", "greet", code=5)
    workspace.up()
    (second, first) = workspace.json("runs")
    assert (second["id"], second["attempt"], second["status"]) == ("greet.2", 1, "succeeded")
    assert first["refused"] == second["refused"] == []


def test_a_task_that_has_not_run_has_no_log_yet(planned):
    for words in (("logs", "-f"), ("show",)):
        assert "no run yet of task plan" in planned.run("runs", *words, "plan", code=4).err
    assert "no run `plan.1`" in planned.run("runs", "logs", "plan.1", code=4).err


def test_why_takes_what_git_takes(planned):
    oid = planned.git("rev-parse", "HEAD")
    for words in ("HEAD", "main", oid, oid[:8], "refs/ravi/main"):
        told = planned.json("why", words)
        assert (told["kind"], told["id"]) == ("commit", oid)
    assert planned.json("why", "HEAD~1")["id"] == planned.git("rev-parse", "HEAD~1")
    for words in ("--all", "^HEAD", "HEAD:ravi.yaml", "nobody", ""):
        planned.run("why", "--", words, code=4)


def test_the_doctor_warns_when_git_does_not_know_who_you_are(workspace, tmp_path):
    (person,) = [row for row in workspace.json("doctor") if row["check"] == "person"]
    assert (person["status"], person["found"]) == ("ok", "Ann <ann@example.org>")
    (tmp_path / "nobody").mkdir()
    rows = workspace.json("doctor", env={"HOME": str(tmp_path / "nobody"), "XDG_CONFIG_HOME": str(tmp_path)})
    (person,) = [row for row in rows if row["check"] == "person"]
    assert person["status"] == "warn"
    assert "git config" in person["mend"]


def test_the_merge_driver_says_which_values_met(workspace):
    workspace.task("plan", "ann", "priority: 1\nlinks: {related: [a]}\n", body="One.")
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "plan")
    workspace.up()
    base = workspace.read("tasks/plan/TASK.md")
    here = base.replace("priority: 1", "priority: 3").replace("One.", "Two.")
    there = base.replace("priority: 1", "priority: 5").replace("One.", "Three.").replace("assignee: ann\n", "")
    for name, text in (("base", base), ("here", here.replace("ann", "bob")), ("there", there)):
        workspace.write(name, text)
    told = workspace.run("merge-driver", "base", "here", "there", "tasks/plan/TASK.md", code=1)
    assert told.out == ""
    assert told.err.splitlines() == [
        "tasks/plan/TASK.md: priority: 3 here, 5 there; 3 is kept, mend it and commit",
        "tasks/plan/TASK.md: assignee: bob here, nothing there; bob is kept, mend it and commit",
        "tasks/plan/TASK.md: both sides changed the same lines; those from here are kept, mend it and commit",
    ]
    assert "priority: 3" in workspace.read("here")
    assert workspace.run("merge-driver", "base", "base", "there", "tasks/plan/TASK.md").err == ""
