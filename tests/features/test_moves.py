"""Folders of tasks that are moved, or deleted, by a person: nothing is taken back, and no run is lost."""

import shutil
import subprocess

import pytest

WAITS = 'while [ ! -e "$RAVI_WORKSPACE/../go" ]; do sleep 0.05; done\n'


@pytest.fixture
def daemon(workspace):
    started = []

    def start():
        started.append(workspace.start("up"))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def told(daemon):
    daemon.terminate()
    said, _ = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, said
    return said


@pytest.fixture
def git(workspace, until):
    """git as a person uses it: again, when ravi has its index locked for a moment."""

    def call(*words):
        def is_done():
            try:
                workspace.git(*words)
            except subprocess.CalledProcessError as fault:
                if "index.lock" not in fault.stderr:
                    raise
                return False
            return True

        until(is_done)

    return call


def moved(workspace, git, old, new, how):
    (workspace.root / new).parent.mkdir(parents=True, exist_ok=True)
    if how == "mv":
        (workspace.root / old).rename(workspace.root / new)
    else:
        git("mv", old, new)
        git("commit", "-qm", "moved")


def events(said):
    return [line for line in said.splitlines() if " run " in line or " task " in line]


def subjects(workspace, since):
    return workspace.git("log", "--first-parent", "--format=%s", f"{since}..refs/ravi/main").splitlines()


def is_finished_at(workspace, folder, id="ss"):
    task = workspace.json("tasks", "show", id)
    assert (task["status"], task["path"], task["runs"]) == ("done", f"{folder}/TASK.md", [f"{id}.1"])
    assert workspace.json("runs", "show", f"{id}.1")["status"] == "succeeded"
    assert workspace.read(f"{folder}/outputs/o") == "made\n"
    assert (workspace.root / folder / "runs/1/RUN.md").exists()
    assert workspace.is_clean()
    return True


@pytest.mark.parametrize("how", ["mv", "git mv"])
@pytest.mark.parametrize("is_up", [True, False])
def test_a_finished_task_that_is_moved_stays_finished(workspace, daemon, git, until, how, is_up):
    workspace.agent("maker", "mkdir -p outputs; echo made > outputs/o\n")
    workspace.task("ss", "maker")
    workspace.up()
    workspace.run("tasks", "comment", "ss", "Well done.")
    workspace.up()
    before = workspace.git("rev-parse", "refs/ravi/main")
    if is_up:
        up = daemon()
        until(lambda: workspace.json("status")["daemon"]["running"])
    moved(workspace, git, "tasks/ss", "tasks/2027/kept", how)
    if is_up:
        until(lambda: workspace.json("tasks", "show", "ss")["path"] == "tasks/2027/kept/TASK.md")
        said = told(up)
    else:
        said = workspace.up().err
    assert is_finished_at(workspace, "tasks/2027/kept")
    assert subjects(workspace, before) == ["task ss: moved by Ann" if how == "mv" else "moved"]
    assert events(said) == []
    assert not (workspace.root / "tasks/ss").exists()


@pytest.mark.parametrize("how", ["mv", "git mv"])
def test_a_folder_of_many_tasks_that_is_moved_takes_them_all_along(workspace, daemon, git, until, how):
    workspace.agent("maker", "mkdir -p outputs; echo made > outputs/o\n")
    for id in ("one", "two", "three"):
        workspace.task(f"2026/{id}", "maker")
        text = workspace.read(f"tasks/2026/{id}/TASK.md").replace(f"id: 2026/{id}", f"id: {id}")
        workspace.write(f"tasks/2026/{id}/TASK.md", text)
    workspace.up()
    before = workspace.git("rev-parse", "refs/ravi/main")
    up = daemon()
    until(lambda: workspace.json("status")["daemon"]["running"])
    moved(workspace, git, "tasks/2026", "tasks/archive", how)
    until(lambda: all(t["path"].startswith("tasks/archive/") for t in workspace.json("tasks", "list", "--all")))
    said = told(up)
    for id in ("one", "two", "three"):
        is_finished_at(workspace, f"tasks/archive/{id}", id)
    expected = {f"task {id}: moved by Ann" for id in ("one", "two", "three")} if how == "mv" else {"moved"}
    assert set(subjects(workspace, before)) == expected
    assert len(subjects(workspace, before)) == len(expected)
    assert events(said) == []
    assert workspace.up().err.count(" run ") == 0


@pytest.mark.parametrize("how", ["mv", "git mv"])
def test_a_run_comes_back_to_where_its_task_is_by_then(workspace, daemon, git, until, how):
    workspace.agent("maker", f"mkdir -p outputs; {WAITS} echo made > outputs/o\n")
    workspace.task("ss", "maker")
    up = daemon()
    until(lambda: workspace.json("runs") and (workspace.root / "tasks/ss/TASK.md").exists())
    until(lambda: workspace.git("rev-parse", "refs/ravi/published") == workspace.git("rev-parse", "refs/ravi/main"))
    moved(workspace, git, "tasks/ss", "tasks/2027/kept", how)
    until(lambda: workspace.json("tasks", "show", "ss")["path"] == "tasks/2027/kept/TASK.md")
    (workspace.root.parent / "go").touch()
    until(lambda: workspace.json("tasks", "show", "ss")["status"] == "done")
    assert events(told(up))[-1].endswith("run ss.1: succeeded")
    assert is_finished_at(workspace, "tasks/2027/kept")
    assert not (workspace.root / "tasks/ss").exists()
    assert workspace.git("for-each-ref", "refs/ravi/runs") == ""


def test_a_run_that_ends_in_the_moment_of_the_move_comes_along(workspace):
    there = '"$RAVI_WORKSPACE/tasks/ss" "$RAVI_WORKSPACE/tasks/new"'
    workspace.agent("maker", f"mkdir -p outputs; echo made > outputs/o; mv {there}\n")
    workspace.task("ss", "maker")
    workspace.up()
    assert is_finished_at(workspace, "tasks/new")
    assert not (workspace.root / "tasks/ss").exists()


def test_a_run_that_ends_between_git_mv_and_git_commit_comes_along(workspace, daemon, git, until):
    workspace.agent("maker", f"mkdir -p outputs; {WAITS} echo made > outputs/o\n")
    workspace.task("ss", "maker")
    up = daemon()
    until(lambda: workspace.json("runs") and (workspace.root / "tasks/ss/TASK.md").exists())
    until(lambda: workspace.git("rev-parse", "refs/ravi/published") == workspace.git("rev-parse", "refs/ravi/main"))
    git("mv", "tasks/ss", "tasks/new")
    (workspace.root.parent / "go").touch()
    until((workspace.root / "tasks/ss/outputs/o").exists)
    git("commit", "-qm", "moved")
    until(lambda: workspace.json("tasks", "show", "ss")["path"] == "tasks/new/TASK.md")
    assert events(told(up))[-1].endswith("run ss.1: succeeded")
    assert is_finished_at(workspace, "tasks/new")
    assert not (workspace.root / "tasks/ss").exists()


@pytest.mark.parametrize("how", ["rm", "git rm"])
def test_the_run_of_a_task_that_is_deleted_is_stopped_and_its_work_kept(workspace, daemon, git, until, how):
    workspace.agent("maker", f'mkdir -p outputs; echo half > outputs/o; touch "$RAVI_WORKSPACE/../begun"; {WAITS}')
    workspace.task("ss", "maker")
    up = daemon()
    until((workspace.root.parent / "begun").exists)
    until(lambda: workspace.git("rev-parse", "refs/ravi/published") == workspace.git("rev-parse", "refs/ravi/main"))
    if how == "rm":
        shutil.rmtree(workspace.root / "tasks/ss")
    else:
        git("rm", "-rq", "tasks/ss")
        git("commit", "-qm", "task ss: not wanted\n\nRavi-Task: ss")
    branch = "refs/ravi/runs/ss.1"
    until(lambda: "cancelled" in workspace.git("log", "-1", "--format=%s", branch))
    said = told(up)
    assert f"run ss.1: stopped, task ss was deleted; what it did stays on {branch}" in said
    assert "succeeded" not in said
    assert workspace.git("show", f"{branch}:tasks/ss/outputs/o") == "half"
    kept, recorded = workspace.git("rev-parse", branch, "refs/ravi/main").split()
    assert events(workspace.up().err) == []
    assert workspace.git("rev-parse", branch, "refs/ravi/main").split() == [kept, recorded]
    assert workspace.is_clean()
    assert [c["subject"] for c in workspace.json("log", "ss")][-1] == "task ss: created by Ann"
    assert workspace.run("log", "never-was", code=4).err.startswith("ravi: no task `never-was`")
