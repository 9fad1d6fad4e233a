"""The command line: JSON shapes, exit codes, words. What scripts hold on to."""

import json
import os
import shutil
import subprocess
import sys

import pytest

TASK_KEYS = {
    "id", "title", "status", "assignee", "parent", "depends_on", "priority", "labels", "path", "created", "updated",
    "summary", "progress", "runs",
}  # fmt: skip
RUN_KEYS = {
    "id", "task", "agent", "attempt", "status", "started", "ended", "branch", "base", "merge", "exit", "summary",
    "usage",
}  # fmt: skip


@pytest.fixture
def lived_in(workspace):
    """A workspace in which something has happened."""
    workspace.agent("writer", "echo written\n")
    workspace.task("greet", "writer", "priority: 2\nlabels: [a, b]\n")
    workspace.up()
    return workspace


def test_the_json_of_a_task_has_its_keys_everywhere(lived_in):
    made = lived_in.json("tasks", "new", "Another one", "--assignee", "ann", "--label", "x", "--priority", "7")
    shown = lived_in.json("tasks", "show", made["id"])
    listed = lived_in.json("tasks")
    edited = lived_in.json("tasks", "edit", made["id"], "--title", "A better name")
    for task in (made, shown, edited, *listed):
        assert task.keys() >= TASK_KEYS
    assert [t["id"] for t in listed] == [made["id"]], "what is closed is not listed"
    assert (edited["title"], edited["labels"], edited["priority"], edited["status"]) == (
        "A better name",
        ["x"],
        7,
        "open",
    )
    assert [t["id"] for t in lived_in.json("tasks", "list", "--all")] == [made["id"], "greet"]


def test_the_json_of_a_run_has_its_keys_everywhere(lived_in):
    (listed,) = lived_in.json("runs")
    shown = lived_in.json("runs", "show", "greet.1")
    assert listed.keys() >= RUN_KEYS
    assert shown.keys() >= RUN_KEYS
    assert shown["text"].strip() == "written"
    assert lived_in.run("runs", "logs", "greet").out == "written\n"


def test_words_come_before_and_after_json(lived_in):
    assert lived_in.json("tasks", "list", "--all") == json.loads(lived_in.run("--json", "tasks", "list", "--all").out)
    assert lived_in.json("task", "show", "greet") == lived_in.json("tasks", "show", "gre")


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("nonsense",), 2, "usage"),
        (("tasks", "nonsense"), 2, "usage"),
        (("tasks", "new"), 2, "usage"),
        (("tasks", "new", "  "), 2, "usage"),
        (("tasks", "new", "x", "--id", "../up"), 2, "usage"),
        (("tasks", "new", "x", "--set", "nothing"), 2, "usage"),
        (("tasks", "show", "nobody"), 4, "not_found"),
        (("tasks", "new", "x", "--parent", "nobody"), 4, "not_found"),
        (("tasks", "new", "x", "--depends-on", "nobody"), 4, "not_found"),
        (("tasks", "new", "x", "--id", "greet"), 5, "conflict"),
        (("tasks", "done", "greet"), 5, "refused"),
        (("tasks", "edit", "greet", "--status", "finished"), 1, "malformed"),
        (("tasks", "edit", "greet", "--parent", "greet"), 1, "malformed"),
        (("runs", "show", "greet.9"), 4, "not_found"),
        (("runs", "stop", "greet.1"), 5, "refused"),
        (("agents", "show", "writter"), 4, "not_found"),
        (("agents", "new", "Not A Name", "--", "true"), 2, "usage"),
        (("agents", "new", "writer", "--", "true"), 5, "conflict"),
        (("schema", "taks"), 4, "not_found"),
        (("why", "nobody"), 4, "not_found"),
        (("log", "nobody"), 4, "not_found"),
        (("--workspace", "/nowhere", "tasks"), 4, "not_found"),
    ],
)  # fmt: skip
def test_a_fault_is_one_object_and_an_exit_code(lived_in, words, code, name):
    before = lived_in.git("rev-parse", "refs/ravi/main")
    told = lived_in.run("--json", *words, code=code)
    assert told.out == ""
    fault = json.loads(told.err)
    assert fault.keys() == {"error", "code", "hint", "warnings"}
    assert fault["code"] == name
    assert fault["error"]
    assert lived_in.git("rev-parse", "refs/ravi/main") == before


def test_a_typing_mistake_is_answered_with_what_was_meant(lived_in):
    assert "did you mean `tasks`?" in lived_in.run("taks", code=2).err
    assert "`writer`" in lived_in.run("agents", "show", "writter", code=4).err
    assert "`task`" in lived_in.run("schema", "taks", code=4).err


def test_a_circle_is_refused_with_its_path(lived_in):
    first = lived_in.json("tasks", "new", "First")["id"]
    second = lived_in.json("tasks", "new", "Second", "--depends-on", first)["id"]
    fault = lived_in.run("tasks", "edit", first, "--depends-on", second, code=1)
    assert "circle" in fault.err


def test_the_words_of_a_task_are_what_was_given(lived_in):
    made = lived_in.json("tasks", "new", "Long one", "--body", "-", input="First line\n\n- a list\n")
    assert lived_in.json("tasks", "show", made["id"])["body"].strip() == "First line\n\n- a list"
    lived_in.run("tasks", "comment", made["id"], "Looks good.")
    (said,) = lived_in.json("tasks", "show", made["id"])["comments"]
    assert (said["author"], said["text"]) == ("Ann", "Looks good.")
    lived_in.run("tasks", "progress", made["id"], "half way")
    assert lived_in.json("tasks", "show", made["id"])["progress"] == "half way"
    lived_in.run("tasks", "block", made["id"], "needs a key")
    assert lived_in.json("tasks", "show", made["id"])["blocker"] == "needs a key"
    lived_in.run("tasks", "retry", made["id"])
    done = lived_in.json("tasks", "done", made["id"], "--summary", "all of it")
    assert (done["status"], done["summary"], done["blocker"]) == ("done", "all of it", "")
    assert lived_in.is_clean()


def test_what_is_searched_is_found(lived_in):
    lived_in.run("tasks", "new", "Paint the fence", "--body", "with the green colour")
    lived_in.run("tasks", "new", "Mow the lawn")
    assert [t["title"] for t in lived_in.json("tasks", "list", "--search", "green")] == ["Paint the fence"]
    assert [t["title"] for t in lived_in.json("tasks", "list", "-q", "lawn")] == ["Mow the lawn"]


def test_why_goes_back_to_the_person(lived_in):
    told = lived_in.json("why", "greet.1")
    assert told["kind"] == "run"
    assert told["causes"][0]["run"] == "greet.1"
    assert told["causes"][-1]["author"] == "Ann"
    commit = lived_in.json("log")[0]["commit"]
    assert lived_in.json("why", commit[:10])["kind"] == "commit"


def test_the_status_says_what_goes_on(lived_in):
    lived_in.write("tasks/bad/TASK.md", "---\nstatus: finished\nid: bad\n---\nx\n")
    lived_in.up()
    told = lived_in.json("status")
    assert told["daemon"]["running"] is False
    assert told["recorded"] == told["published"] == lived_in.git("rev-parse", "main")
    (problem,) = [p for p in told["problems"] if p["path"] == "tasks/bad/TASK.md"]
    assert (problem["line"], problem["key"]) == (2, "status")
    assert "status" in lived_in.read("tasks/bad/TASK.md.problem")
    check = lived_in.run("check", "--json", code=1)
    assert any(p["path"] == "tasks/bad/TASK.md" and p["line"] == 2 for p in check.json)
    lived_in.write("tasks/bad/TASK.md", "---\nid: bad\nstatus: draft\n---\nx\n")
    lived_in.up()
    assert lived_in.json("status")["problems"] == []
    assert not (lived_in.root / "tasks/bad/TASK.md.problem").exists()
    assert lived_in.is_clean()


def test_doctor_finds_nothing_bad_here(lived_in):
    rows = lived_in.json("doctor")
    assert {"git", "disk", "watches", "exchange", "locks", "workspace"} <= {r["check"] for r in rows}
    assert not [r for r in rows if r["status"] == "bad"]


def test_every_schema_is_one(lived_in):
    for name in lived_in.json("schema"):
        schema = lived_in.json("schema", name)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["type"] == "object"


def test_what_is_printed_cannot_drive_the_terminal(lived_in):
    lived_in.run("tasks", "new", "Evil \x1b[31m title \x07", "--body", "\x1b]52;c;aGk=\x07")
    for words in (("tasks",), ("tasks", "show", "evil"), ("log",), ("tree",)):
        assert "\x1b" not in lived_in.run(*words).out, words


def test_manual_ingest_takes_only_what_a_person_commits(workspace):
    workspace.write("ravi.yaml", workspace.read("ravi.yaml") + "ingest: manual\n")
    workspace.git("commit", "-qam", "by hand")
    workspace.agent("writer", "echo written\n")
    workspace.task("greet", "writer")
    workspace.up()
    assert workspace.json("tasks", "list", "--all") == []
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "my own words")
    workspace.up()
    assert workspace.json("tasks", "show", "greet")["status"] == "done"
    assert "my own words" in workspace.git("log", "--format=%s", "main")
    assert workspace.is_clean()


def test_until_idle_gives_up_at_its_time_limit(workspace):
    workspace.agent("sleeper", "exec sleep 60\n")
    workspace.task("long", "sleeper")
    told = workspace.run("up", "--until-idle", "--timeout", "3s", "--json", code=3)
    assert json.loads(told.err)["code"] == "timeout"
    assert workspace.json("runs", "show", "long.1")["status"] == "interrupted"


def test_runs_may_be_listed_by_several_statuses(lived_in):
    lived_in.agent("breaker", "exit 3\n")
    lived_in.task("broken", "breaker", "attempts: 1\n")
    lived_in.up(code=1)
    assert [run["id"] for run in lived_in.json("runs", "list", "-s", "dead, succeeded")] == ["broken.1", "greet.1"]
    assert [run["id"] for run in lived_in.json("runs", "list", "-s", "dead")] == ["broken.1"]


def test_an_agent_that_must_be_walled_in_does_not_run_without_walls(workspace):
    workspace.agent("locked", "touch ran\n", "sandbox: required\n")
    workspace.task("risky", "locked")
    workspace.up()
    task = workspace.json("tasks", "show", "risky")
    assert (task["status"], task["runs"]) == ("blocked", [])
    assert "sandbox: required" in task["blocker"]
    assert "your rights" in workspace.run("agents", "show", "locked").out


def test_who_closes_a_blocked_task_has_done_what_it_waited_for(lived_in):
    lived_in.run("tasks", "new", "Ask", "--id", "ask")
    lived_in.run("tasks", "block", "ask", "which colour?")
    assert lived_in.json("tasks", "show", "ask")["blocker"] == "which colour?"
    assert lived_in.json("tasks", "done", "ask")["blocker"] == ""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to give up root's right to write")
def test_who_may_only_read_is_answered(lived_in, tmp_path):
    def asked(*words: str) -> subprocess.CompletedProcess[str]:
        powers = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
        return subprocess.run(
            [*powers, sys.executable, "-m", "ravi", *words], check=False, cwd=lived_in.root, text=True,
            capture_output=True, env={**lived_in.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        )  # fmt: skip

    shutil.rmtree(lived_in.root / ".ravi")
    subprocess.run(["chmod", "-R", "u-w", lived_in.root], check=True)
    try:
        for words in (("tasks", "list", "--all"), ("tasks", "show", "greet"), ("status",), ("log",), ("runs",)):
            done = asked(*words)
            assert (done.returncode, done.stderr) == (0, ""), words
        refused = asked("tasks", "comment", "greet", "hello")
        assert refused.returncode == 7
        assert "you may only read here" in refused.stderr
    finally:
        subprocess.run(["chmod", "-R", "u+w", lived_in.root], check=True)
