"""`ravi up` as one leaves it running: what it says, what it notices, how it ends."""

import json
import os
import shutil
import signal

import pytest


@pytest.fixture
def daemon(workspace):
    """`ravi up` in the background, ended in order afterwards."""
    process = workspace.start("up")
    assert "watching" in process.stdout.readline()
    yield process
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=30)


def test_a_saved_file_is_noticed_and_its_run_comes_back(workspace, daemon, until):
    workspace.agent("writer", "echo hi > outputs/a; echo fine\n")
    workspace.task("greet", "writer")
    until((workspace.root / "tasks/greet/outputs/a").exists)
    until(lambda: workspace.git("status", "--porcelain") == "")
    assert workspace.json("status")["daemon"]["pid"] == daemon.pid


def test_an_executable_bit_is_noticed(workspace, daemon, until):
    workspace.write("agents/g/AGENT.md", "---\ncommand: [./g.sh]\n---\n")
    script = workspace.write("agents/g/g.sh", "#!/bin/sh\necho hi\n")
    until(lambda: "agents/g/g.sh" in workspace.git("ls-tree", "-r", "--name-only", "refs/ravi/main"))
    script.chmod(0o755)
    until(lambda: workspace.git("ls-tree", "refs/ravi/main", "agents/g/g.sh").startswith("100755"))


def test_what_another_process_records_is_acted_on(workspace, daemon, until):
    workspace.run("agents", "new", "writer", "--", "echo", "made by a shell")
    workspace.run("tasks", "new", "Say it", "--assignee", "writer", "--id", "say")
    until(lambda: workspace.json("tasks", "show", "say")["status"] == "done")


def test_settings_are_read_again_when_they_change(workspace, daemon, until):
    good = workspace.read("ravi.yaml")
    workspace.write("ravi.yaml", good + "ingest: sometimes\n")
    assert "neither auto nor manual" in until(daemon.stdout.readline)
    workspace.write("ravi.yaml", good + "max_runs: 1\n")
    workspace.task("noticed", "")
    until(lambda: [task["id"] for task in workspace.json("tasks")] == ["noticed"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_in_order_and_says_so_to_the_next_one(workspace, daemon, until, number):
    workspace.agent("slow", "exec sleep 60\n")
    workspace.task("long", "slow")
    until(lambda: workspace.json("runs"))
    daemon.send_signal(number)
    assert daemon.wait(30) == 0
    assert workspace.json("status")["daemon"]["running"] is False
    assert [run["status"] for run in workspace.json("runs")] == ["interrupted"]
    assert workspace.is_clean()


def test_a_dead_daemon_is_not_said_to_run(workspace, daemon, until):
    until(lambda: workspace.json("status")["daemon"]["running"])
    daemon.kill()
    daemon.wait()
    assert workspace.json("status")["daemon"]["running"] is False


def test_a_cause_is_what_led_to_it_and_not_what_happened_last(workspace):
    workspace.run("agents", "new", "ok", "--", "true")
    workspace.run("agents", "new", "no", "--", "false")
    for id, agent in (("aa", "ok"), ("bb", "ok"), ("cc", "no")):
        workspace.run("tasks", "new", id, "-a", agent, "--id", id, "--set", "attempts=2", "--set", "backoff=10ms")
    workspace.up(code=1)
    for id in ("aa", "bb"):
        assert workspace.json("why", f"{id}.1")["causes"][1]["subject"] == f"task {id}: created by Ann"
    assert workspace.json("why", "cc.2")["causes"][1]["subject"].startswith("run cc.1: attempt 1 failed")


def test_deleting_the_private_folder_under_a_run_loses_nothing(workspace, daemon, until):
    workspace.agent(
        "slow", 'case $RAVI_RUN in *.1) sleep 1.5;; esac; echo made > "$RAVI_TASK_DIR/outputs/a"; echo fine\n'
    )
    workspace.task("greet", "slow", "backoff: 10ms\n")
    until(lambda: workspace.json("runs"))
    shutil.rmtree(workspace.root / ".ravi", ignore_errors=True)
    until((workspace.root / "tasks/greet/outputs/a").exists)
    assert workspace.json("tasks", "show", "greet")["status"] == "done"


def test_a_dead_run_is_in_the_status(workspace):
    workspace.run("agents", "new", "no", "--", "false")
    workspace.run("tasks", "new", "Doomed", "-a", "no", "--id", "doomed", "--set", "attempts=1")
    told = json.loads(workspace.run("up", "--until-idle", "--json", code=1).out)
    assert told["died"] == ["doomed.1"]
    assert workspace.json("status")["dead"] == ["doomed.1"]
    assert "doomed.1" in workspace.run("status").out
    assert os.listdir(workspace.root / "open") == []
