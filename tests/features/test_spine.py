"""The main job, on real files, real processes and real git."""

import os
import time

import pytest


def test_a_saved_task_comes_back_as_a_commit(workspace):
    workspace.agent("writer", 'mkdir -p outputs; echo "hello from $RAVI_TASK" > outputs/hello.md; echo "all written"\n')
    workspace.task("greet", "writer")
    workspace.up()
    task = workspace.json("tasks", "show", "greet")
    assert (task["status"], task["summary"], task["runs"]) == ("done", "all written", ["greet.1"])
    assert workspace.read("tasks/greet/outputs/hello.md") == "hello from greet\n"
    assert workspace.is_clean()
    run = workspace.json("runs", "show", "greet.1")
    assert (run["status"], run["agent"], run["attempt"], run["exit"]) == ("succeeded", "writer", 1, 0)
    merge = workspace.git("log", "-1", "--format=%H %P", run["merge"]).split()
    assert len(merge) == 3, "a run comes back as one merge commit"
    assert workspace.git("log", "-1", "--format=%(trailers:key=Ravi-Task,valueonly)", run["merge"]) == "greet"
    assert "writer" in workspace.git("blame", "--porcelain", "tasks/greet/outputs/hello.md")
    assert workspace.git("rev-parse", "main") == workspace.git("rev-parse", "refs/ravi/main")


def test_what_is_open_is_found_with_ls(workspace):
    workspace.agent("writer", "echo fine\n")
    workspace.task("one", "writer")
    workspace.task("two", "")
    workspace.up()
    made = workspace.json("tasks", "new", "Three", "--id", "three")
    assert sorted(os.listdir(workspace.root / "open")) == ["three", "two"]
    assert (workspace.root / "open/three/TASK.md").samefile(workspace.root / made["path"])
    workspace.run("tasks", "cancel", "three")
    workspace.write("tasks/two/TASK.md", "---\nid: two\nstatus: open\n---\nMine.\n")
    workspace.up()
    assert os.listdir(workspace.root / "open") == ["two"]
    assert workspace.is_clean()


def test_nothing_happens_twice_when_ravi_is_called_twice(workspace):
    workspace.agent("writer", "echo once\n")
    workspace.task("greet", "writer")
    workspace.up()
    before = workspace.git("rev-parse", "main")
    workspace.up()
    assert workspace.git("rev-parse", "main") == before


def test_a_persons_edit_is_committed_as_theirs(workspace):
    workspace.task("note", "")
    workspace.up()
    assert (
        workspace.git("log", "-1", "--format=%an <%ae>|%cn", "--", "tasks/note/TASK.md") == "Ann <ann@example.org>|ravi"
    )


def test_a_task_made_by_hand_without_an_id_gets_one(workspace):
    workspace.write("tasks/some/where/deep/TASK.md", "---\nstatus: open # now\n---\n# Fix the door\n")
    workspace.up()
    (task,) = workspace.json("tasks")
    assert task["id"].startswith("fix-the-door-")
    assert task["path"] == "tasks/some/where/deep/TASK.md"
    text = workspace.read(task["path"])
    assert "status: open # now" in text
    assert f"id: {task['id']}" in text


def test_an_edit_keeps_every_other_byte(workspace):
    text = '---\n# mine\nid: kept\ntitle:   "Quoted"   # why\nstatus: draft\n\nunknown: 1.10\n---\r\n\r\nA  body  \r\n'
    workspace.write("tasks/kept/TASK.md", text)
    workspace.up()
    workspace.run("tasks", "edit", "kept", "--priority", "3")
    after = workspace.read("tasks/kept/TASK.md")
    lines = [line for line in after.splitlines(keepends=True) if not line.startswith(("priority:", "updated:"))]
    assert "".join(lines) == text


def test_a_failing_agent_is_tried_again_and_then_given_up(workspace):
    workspace.agent("broken", "echo bad luck >&2; exit 3\n")
    workspace.task("doomed", "broken", "attempts: 2\nbackoff: 100ms\n")
    workspace.up(code=1)
    runs = workspace.json("runs", "list", "--task", "doomed")
    assert [(r["attempt"], r["status"], r["exit"]) for r in reversed(runs)] == [(1, "failed", 3), (2, "dead", 3)]
    assert runs[0]["reason"] == "exited with 3: bad luck"
    assert workspace.json("tasks", "show", "doomed")["status"] == "failed"
    assert [r["id"] for r in workspace.json("dead")] == ["doomed.2"]
    workspace.agent("broken", "echo better\n")
    workspace.run("dead", "retry", "doomed.2")
    workspace.up()
    assert workspace.json("tasks", "show", "doomed")["status"] == "done"
    assert workspace.json("dead") == []
    assert workspace.is_clean()


def test_an_agent_that_fails_once_is_retried(workspace):
    workspace.agent("flaky", "case $RAVI_RUN in *.1) exit 1;; esac; echo ok\n")
    workspace.task("later", "flaky", "backoff: 100ms\n")
    workspace.up()
    assert workspace.json("tasks", "show", "later")["runs"] == ["later.1", "later.2"]


def test_a_spawn_is_a_fork_and_a_parent_is_woken_once(workspace):
    workspace.agent(
        "boss",
        'if [ -z "$(ls "$RAVI_TASK_DIR/runs" 2>/dev/null)" ]; then\n'
        '  for part in one two; do ravi tasks new "part $part" --assignee worker >/dev/null || exit 9; done\n'
        "  echo delegated\nelse echo gathered; fi\n",
    )
    workspace.agent(
        "worker",
        'echo part > outputs/part.txt; ravi tasks done "$RAVI_TASK" --summary "my part" >/dev/null; echo x\n',
    )
    workspace.task("whole", "boss")
    workspace.up()
    task = workspace.json("tasks", "show", "whole")
    assert (task["status"], task["summary"], task["runs"]) == ("done", "gathered", ["whole.1", "whole.2"])
    children = workspace.json("tasks", "list", "--all", "--parent", "whole")
    assert sorted((c["title"], c["status"], c["summary"]) for c in children) == [
        ("part one", "done", "my part"),
        ("part two", "done", "my part"),
    ]
    for child in children:
        created = workspace.git("log", "--format=%H", "--grep", f"^task {child['id']}: created", "main")
        run = workspace.json("runs", "show", f"{child['id']}.1")
        assert run["base"] == created, "a child's branch starts at the commit that created the child"
    woken = workspace.json("runs", "show", "whole.2")
    assert set(
        workspace.git("log", "-1", "--format=%b", woken["merge"]).split("children: ")[1].split("\n")[0].split(", ")
    ) == {c["id"] for c in children}


def test_a_callback_to_a_task_comes_with_the_merge(workspace):
    workspace.agent("worker", "echo the answer is 42\n")
    workspace.task("asker", "")
    workspace.task("question", "worker", "report_to: [task:asker]\n")
    workspace.up()
    (said,) = workspace.json("tasks", "show", "asker")["comments"]
    assert (said["kind"], said["author"]) == ("callback", "ravi")
    assert "the answer is 42" in said["text"]
    merge = workspace.json("runs", "show", "question.1")["merge"]
    assert workspace.git("log", "-1", "--format=%(trailers:key=Ravi-Callback,valueonly)", merge) == "task:asker told"


def test_an_agent_gets_its_instructions_and_what_it_may_read(workspace):
    workspace.write("notes/a.md", "alpha\n")
    workspace.write("notes/deep/b.md", "beta\n")
    workspace.write("secret.md", "no\n")
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "notes")
    workspace.agent(
        "reader",
        'cat > outputs/prompt.md; cd "$RAVI_LANE"; find . -name "*.md" > "$RAVI_TASK_DIR/outputs/seen"\n',
        "permissions:\n  read: [notes/**]\n",
    )
    workspace.task("look", "reader", body="Look around.")
    workspace.up()
    prompt = workspace.read("tasks/look/outputs/prompt.md")
    assert "You are reader." in prompt
    assert "Look around." in prompt
    seen = workspace.read("tasks/look/outputs/seen").split()
    assert {"./notes/a.md", "./notes/deep/b.md", "./tasks/look/TASK.md", "./agents/reader/AGENT.md"} <= set(seen)
    assert "./secret.md" not in seen


def test_a_task_that_depends_on_another_waits_for_it(workspace):
    workspace.agent("worker", "echo $RAVI_TASK\n")
    workspace.task("second", "worker", "depends_on: [first]\n")
    workspace.up()
    assert workspace.json("tasks", "show", "second")["status"] == "waiting"
    workspace.task("first", "worker")
    workspace.up()
    runs = workspace.json("runs")
    assert [r["id"] for r in sorted(runs, key=lambda r: r["started"])] == ["first.1", "second.1"]


def test_a_reverted_run_is_in_review_and_does_not_run_again(workspace):
    workspace.agent("writer", "mkdir -p outputs; echo text > outputs/a.md\n")
    workspace.task("greet", "writer")
    workspace.up()
    merge = workspace.json("runs", "show", "greet.1")["merge"]
    workspace.git("revert", "--no-edit", "-m", "1", merge)
    workspace.up()
    task = workspace.json("tasks", "show", "greet")
    assert task["status"] == "review"
    assert not (workspace.root / "tasks/greet/outputs/a.md").exists()
    assert workspace.is_clean()
    workspace.run("tasks", "retry", "greet")
    workspace.up()
    assert workspace.json("tasks", "show", "greet")["runs"] == ["greet.2"]


def test_a_task_cancelled_under_its_run_stops_it(workspace, until):
    workspace.agent("sleeper", "sleep 60 & wait\n")
    workspace.task("long", "sleeper")
    daemon = workspace.start("up", "--until-idle", "--timeout", "60s")
    try:
        until(lambda: [t["status"] for t in workspace.json("tasks")] == ["running"])
        workspace.run("tasks", "cancel", "long")
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert workspace.json("tasks", "show", "long")["status"] == "cancelled"
    assert workspace.json("runs", "show", "long.1")["status"] == "cancelled"
    assert workspace.is_clean()


def test_a_stopped_run_blocks_its_task(workspace, until):
    workspace.agent("sleeper", "exec sleep 60\n")
    workspace.task("long", "sleeper")
    daemon = workspace.start("up", "--until-idle", "--timeout", "60s")
    try:
        until(lambda: workspace.json("runs") and workspace.json("tasks", "show", "long")["status"] == "running")
        workspace.run("runs", "stop", "long.1")
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    task = workspace.json("tasks", "show", "long")
    assert task["status"] == "blocked"
    assert "Ann" in task["blocker"]


def test_a_run_is_killed_at_its_time_limit(workspace):
    workspace.agent("sleeper", "trap '' TERM; sleep 60 & wait; sleep 60\n")
    workspace.task("long", "sleeper", "timeout: 500ms\nattempts: 1\n")
    begun = time.monotonic()
    workspace.up(code=1)
    assert time.monotonic() - begun < 30
    assert "timed out" in workspace.json("runs", "show", "long.1")["reason"]


def test_a_terminated_daemon_stops_its_runs_and_they_run_again(workspace, until):
    workspace.agent("slow", "case $RAVI_RUN in *.1) exec sleep 60;; esac; echo done at last\n")
    workspace.task("long", "slow")
    daemon = workspace.start("up")
    until(lambda: workspace.json("runs"))
    daemon.terminate()
    daemon.communicate(timeout=20)
    assert daemon.returncode == 0
    workspace.up()
    assert [(r["status"], r["attempt"]) for r in workspace.json("runs")] == [("succeeded", 1), ("interrupted", 1)]


def test_a_killed_daemon_leaves_no_agent_and_its_run_is_tried_again(workspace, until):
    workspace.agent(
        "slow", 'case $RAVI_RUN in *.1) echo $$ > "$RAVI_WORKSPACE/.ravi/pid"; exec sleep 60;; esac; echo done\n'
    )
    workspace.task("long", "slow")
    daemon = workspace.start("up")
    pid = int(until(lambda: (workspace.root / ".ravi/pid").exists() and workspace.read(".ravi/pid").strip()))
    daemon.kill()
    daemon.communicate()
    until(lambda: not os.path.exists(f"/proc/{pid}"), 5)
    workspace.up()
    assert [(r["status"], r["attempt"]) for r in workspace.json("runs")] == [("succeeded", 1), ("interrupted", 1)]
    assert workspace.is_clean()


def test_two_daemons_on_one_workspace_are_one(workspace, until):
    daemon = workspace.start("up")
    try:
        until(lambda: workspace.json("status")["daemon"]["running"])
        second = workspace.run("up", "--until-idle", "--json", code=5)
        assert str(daemon.pid) in second.err
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)


def test_a_clash_between_a_person_and_a_run_goes_to_review_with_both_texts(workspace, until):
    workspace.agent(
        "writer",
        'cd "$RAVI_WORKSPACE/.ravi"; echo "agent text" > "$RAVI_TASK_DIR/outputs/a.md"; touch go\n'
        "while [ ! -e on ]; do sleep 0.05; done\n",
    )
    workspace.task("greet", "writer")
    daemon = workspace.start("up", "--until-idle", "--timeout", "60s")
    try:
        until((workspace.root / ".ravi/go").exists)
        workspace.write("tasks/greet/outputs/a.md", "my text\n")
        until(lambda: "outputs/a.md" in workspace.git("ls-tree", "-r", "--name-only", "refs/ravi/main"))
        workspace.write(".ravi/on", "")
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    task = workspace.json("tasks", "show", "greet")
    assert task["status"] == "review"
    assert workspace.read("tasks/greet/outputs/a.md") == "my text\n"
    assert workspace.git("show", "refs/ravi/runs/greet.1:tasks/greet/outputs/a.md") == "agent text"


@pytest.mark.parametrize(
    "verb",
    [
        ("tasks", "show", "other"),
        ("tasks", "edit", "mine", "--title", "x"),
        ("tasks", "cancel", "mine"),
        ("log",),
        ("status",),
        ("agents",),
    ],
)
def test_a_run_may_not_do_more_than_it_was_given(workspace, verb):
    workspace.agent(
        "curious",
        f'cd "$RAVI_WORKSPACE/.ravi"; ravi {" ".join(verb)} --json > out 2> err; echo $? > code\n',
    )
    workspace.task("other", "")
    workspace.task("mine", "curious")
    workspace.up()
    assert workspace.read(".ravi/code").strip() == "6", workspace.read(".ravi/err")
    assert workspace.read(".ravi/out") == ""
    assert '"code": "not_permitted"' in workspace.read(".ravi/err")


def test_a_token_ends_with_its_run(workspace):
    workspace.agent("keeper", 'echo "$RAVI_CONTEXT" > "$RAVI_WORKSPACE/.ravi/token"\n')
    workspace.task("mine", "keeper")
    workspace.up()
    token = workspace.read(".ravi/token").strip()
    workspace.run("tasks", "comment", "mine", "still here", env={"RAVI_CONTEXT": token}, code=6)
    workspace.run("tasks", "comment", "mine", "still here", env={"RAVI_RUN": "mine.1"}, code=6)
    assert token.split(".")[-1] not in workspace.git("log", "-p", "--all")


def test_deleting_the_private_folder_costs_nothing_but_time(workspace):
    workspace.agent("writer", "echo fine\n")
    workspace.task("greet", "writer")
    workspace.up()
    import shutil

    shutil.rmtree(workspace.root / ".ravi")
    assert [t["id"] for t in workspace.json("tasks", "--all")] == ["greet"]
    workspace.task("again", "writer")
    workspace.up()
    assert workspace.json("tasks", "show", "again")["status"] == "done"
