"""`ravi sync` from outside: several clones of one workspace, a bare remote on disk, and people who also use git."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ravi.app import App
from ravi.porcelain.sync import Clones
from ravi.store.remote import clone_id

Clone = Any  # a Workspace of tests/conftest.py


@pytest.fixture
def hub(tmp_path: Path, environ: dict[str, str]) -> Path:
    """A bare remote with nothing in it."""
    place = tmp_path / "hub.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(place)], check=True, env=environ)
    return place


@pytest.fixture
def ann(workspace: Clone, hub: Path) -> Clone:
    """The first clone. It has synced, so it leads."""
    workspace.git("remote", "add", "origin", str(hub))
    workspace.json("sync")
    return workspace


@pytest.fixture
def clone(ann: Clone, hub: Path, tmp_path: Path, environ: dict[str, str]) -> Callable[[str], Clone]:
    """Make another clone, with `git clone`, of another person."""

    def make(name: str, *, synced: bool = True) -> Clone:
        root = tmp_path / name
        subprocess.run(["git", "clone", "--quiet", str(hub), str(root)], check=True, env=environ)
        made = type(ann)(root, environ)
        made.git("config", "user.name", name.title())
        made.git("config", "user.email", f"{name}@example.org")
        if synced:
            made.run("sync")
        return made

    return make


@pytest.fixture
def bob(clone: Callable[[str], Clone]) -> Clone:
    """A second clone; it follows."""
    return clone("bob")


def level(*clones: Clone) -> str:
    """The commit at which all clones and their remote stand, with nothing left to write out."""
    tips = {
        place.git("rev-parse", ref) for place in clones for ref in ("HEAD", "refs/ravi/main", "refs/ravi/published")
    }
    there = {clones[0].git("ls-remote", "origin", ref).split()[0] for ref in ("refs/heads/main", "refs/ravi/main")}
    assert len(tips | there) == 1, [place.git("log", "--oneline", "--graph", "--all", "-20") for place in clones]
    for place in clones:
        assert place.git("status", "--porcelain") == ""
        assert place.is_clean()
    return tips.pop()


def rounds(*clones: Clone) -> None:
    """Everybody syncs until everybody has everything."""
    for place in (*clones, *clones[:-1]):
        place.run("sync")


def front(place: Clone, id: str) -> dict[str, Any]:
    return place.json("tasks", "show", id)


def runs(place: Clone) -> dict[str, str]:
    return {run["id"]: run["status"] for run in place.json("runs")}


def away(place: Clone) -> None:
    place.git("remote", "set-url", "origin", str(place.root.parent / "nowhere.git"))


def back(place: Clone, hub: Path) -> None:
    place.git("remote", "set-url", "origin", str(hub))


def test_the_first_clone_that_syncs_leads_and_the_others_follow(ann, clone):
    told = ann.json("sync")
    assert told["leader"]["here"] is True
    assert told["leader"]["epoch"] == 1
    bob = clone("bob", synced=False)
    told = bob.json("sync")
    assert told["leader"]["here"] is False
    assert told["leader"]["clone"] == clone_id(str(ann.root / ".git" / "ravi")) != told["clone"]
    assert f"clone {told['leader']['clone']} on " in bob.run("sync").out
    level(ann, bob)


def test_what_each_recorded_is_in_both(ann, bob):
    ann.task("from-ann", "nobody")
    bob.task("from-bob", "nobody")
    rounds(ann, bob)
    level(ann, bob)
    for place in (ann, bob):
        assert [row["id"] for row in place.json("tasks")] == ["from-ann", "from-bob"]
        assert sorted(os.listdir(place.root / "open")) == ["from-ann", "from-bob"]
    assert "Bob" in ann.git("log", "--format=%an")


def test_with_nothing_new_nothing_is_pushed_or_written(ann, bob):
    before = level(ann, bob)
    objects = ann.git("count-objects", "-v")
    for place in (ann, bob, ann):
        told = place.json("sync")
        assert (told["received"], told["sent"]) == (0, 0)
    assert level(ann, bob) == before
    assert ann.git("count-objects", "-v") == objects


def test_the_log_of_the_leader_goes_on_along_first_parents(ann, bob):
    ann.task("one", "nobody")
    ann.run("sync")
    bob.task("two", "nobody")
    bob.run("sync")
    ann.task("three", "nobody")
    ann.run("check")
    ann.run("sync")
    was = ann.git("rev-parse", "HEAD")
    bob.task("four", "nobody")
    ann.task("five", "nobody")
    rounds(ann, bob)
    level(ann, bob)
    assert was in ann.git("log", "--first-parent", "--format=%H").split()


def test_different_fields_of_one_task_are_both_changed(ann, bob):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    ann.run("tasks", "edit", "plan", "--priority", "3")
    bob.run("tasks", "edit", "plan", "--assignee", "carol")
    rounds(ann, bob)
    level(ann, bob)
    assert (front(bob, "plan")["priority"], front(bob, "plan")["assignee"]) == (3, "carol")


@pytest.mark.parametrize("first", ["ann", "bob"])
def test_where_both_changed_one_field_the_leader_has_its_way_and_it_is_said(ann, bob, first):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    ann.run("tasks", "edit", "plan", "--priority", "3")
    bob.run("tasks", "edit", "plan", "--priority", "5")
    order = (ann, bob) if first == "ann" else (bob, ann)
    order[0].run("sync")
    told = order[1].json("sync")
    assert {"path": "tasks/plan/TASK.md", "where": "priority"} in told["conflicts"]
    rounds(ann, bob)
    level(ann, bob)
    assert front(ann, "plan")["priority"] == 3
    assert "priority: 5" in ann.git("log", "-p", "--format=", "--", "tasks/plan/TASK.md")
    assert "tasks/plan/TASK.md: priority" in ann.git("log", "--format=%b")


def test_different_lines_of_one_body_are_both_there_and_of_one_line_the_leaders(ann, bob):
    ann.task("plan", "nobody", body="first\n\nsecond\n\nthird")
    rounds(ann, bob)
    text = ann.read("tasks/plan/TASK.md")
    ann.write("tasks/plan/TASK.md", text.replace("first", "FIRST").replace("third", "by Ann"))
    bob.write("tasks/plan/TASK.md", text.replace("second", "SECOND").replace("third", "by Bob"))
    rounds(bob, ann)
    level(ann, bob)
    body = ann.read("tasks/plan/TASK.md")
    assert "FIRST" in body
    assert "SECOND" in body
    assert "by Ann" in body
    assert "by Bob" not in body
    assert "by Bob" in ann.git("log", "-p", "--format=", "--", "tasks/plan/TASK.md")


@pytest.mark.parametrize("deletes", ["ann", "bob"])
def test_what_one_deleted_and_the_other_changed_stays_whole(ann, bob, deletes):
    ann.task("plan", "nobody")
    ann.write("tasks/plan/comments/20260101T000000-aa.md", "Mind the gap.\n")
    rounds(ann, bob)
    gone, kept = (ann, bob) if deletes == "ann" else (bob, ann)
    gone.git("rm", "-r", "-q", "tasks/plan")
    gone.git("commit", "-q", "-m", "no plan")
    kept.run("tasks", "edit", "plan", "--priority", "4")
    rounds(gone, kept)
    level(ann, bob)
    assert front(ann, "plan")["priority"] == 4
    assert ann.read("tasks/plan/comments/20260101T000000-aa.md") == "Mind the gap.\n"
    assert any("it stays" in line for line in ann.git("log", "--format=%b").splitlines())


def test_what_one_deleted_and_nobody_changed_is_gone(ann, bob):
    ann.task("plan", "nobody")
    ann.task("other", "nobody")
    rounds(ann, bob)
    bob.git("rm", "-r", "-q", "tasks/plan")
    bob.git("commit", "-q", "-m", "no plan")
    ann.run("tasks", "edit", "other", "--priority", "4")
    rounds(bob, ann)
    level(ann, bob)
    assert [row["id"] for row in ann.json("tasks")] == ["other"]


@pytest.mark.parametrize("moves", ["ann", "bob"])
def test_a_task_that_one_moved_and_the_other_changed_is_changed_where_it_is_now(ann, bob, moves):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    mover, other = (ann, bob) if moves == "ann" else (bob, ann)
    mover.git("mv", "tasks/plan", "tasks/later")
    mover.git("commit", "-q", "-m", "later")
    other.run("tasks", "edit", "plan", "--priority", "4")
    other.run("tasks", "comment", "plan", "Soon?")
    rounds(mover, other)
    level(ann, bob)
    assert front(ann, "plan")["path"] == "tasks/later/TASK.md"
    assert front(ann, "plan")["priority"] == 4
    assert [said["text"] for said in front(ann, "plan")["comments"]] == ["Soon?"]
    assert not (ann.root / "tasks/plan").exists()


def test_a_task_that_both_moved_lies_where_the_leader_put_it(ann, bob):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    bob.run("tasks", "edit", "plan", "--priority", "4")
    for place, where in ((ann, "soon"), (bob, "later")):
        place.git("mv", "tasks/plan", f"tasks/{where}")
        place.git("commit", "-q", "-m", where)
    rounds(bob, ann)
    level(ann, bob)
    assert front(ann, "plan")["path"] == "tasks/soon/TASK.md"
    assert front(ann, "plan")["priority"] == 4
    assert not (ann.root / "tasks/later").exists()


@pytest.mark.parametrize("folder", ["login", "2026/login"])
def test_one_id_given_in_two_clones_makes_two_tasks(ann, bob, folder):
    ann.task("login", "nobody", body="Ann means the door.")
    bob.write(f"tasks/{folder}/TASK.md", "---\nid: login\nstatus: open\n---\n# Login\n\nBob means the page.\n")
    bob.write(f"tasks/{folder}/sketch.txt", "a page\n")
    ann.run("sync")
    told = bob.json("sync")
    rounds(ann, bob)
    level(ann, bob)
    another = told["renamed"][0]["id"]
    assert told["renamed"] == [{"was": "login", "id": another}]
    assert another.startswith("login-")
    for place in (ann, bob):
        assert "the door" in front(place, "login")["body"]
        assert "the page" in front(place, another)["body"]
        assert front(place, another)["status"] == "draft"
    path = Path(front(ann, another)["path"])
    assert (ann.root / path.parent / "sketch.txt").read_text() == "a page\n"
    assert all(row["severity"] == "warning" for row in ann.json("check"))


def test_two_new_tasks_at_one_place_are_both_kept(ann, bob):
    for place, id in ((ann, "door"), (bob, "page")):
        place.write("tasks/login/TASK.md", f"---\nid: {id}\nstatus: open\n---\n# The {id}\n")
    rounds(bob, ann)
    level(ann, bob)
    assert [row["id"] for row in ann.json("tasks")] == ["door", "page"]
    assert front(bob, "door")["path"] == "tasks/login/TASK.md"


def test_files_that_ravi_does_not_know_are_joined_too(ann, bob):
    for place, name in ((ann, "a"), (bob, "b")):
        place.write(f"notes/{name}.txt", f"{name}\n")
        place.git("add", "notes")
        place.git("commit", "-q", "-m", name)
    rounds(ann, bob)
    level(ann, bob)
    assert sorted(os.listdir(bob.root / "notes")) == ["a.txt", "b.txt"]


def test_who_uses_git_push_and_pull_is_one_of_them(ann, bob, hub, tmp_path, environ):
    carol = type(ann)(tmp_path / "carol", environ)
    subprocess.run(["git", "clone", "--quiet", str(hub), str(carol.root)], check=True, env=environ)
    carol.task("from-carol", "nobody")
    carol.git("add", ".")
    carol.git("commit", "-q", "-m", "a task, by hand")
    carol.git("push", "-q")
    ann.task("from-ann", "nobody")
    bob.task("from-bob", "nobody")
    rounds(ann, bob)
    level(ann, bob)
    carol.git("pull", "-q", "--no-rebase")
    assert sorted(os.listdir(carol.root / "tasks")) == ["from-ann", "from-bob", "from-carol"]
    bob.git("pull", "-q")  # nothing to pull: git's own origin/main moved along
    assert bob.git("status", "--short", "--branch") == "## main...origin/main"


def test_plain_git_joins_tasks_by_field_and_leaves_them_readable_where_it_cannot(ann, bob):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    bob.run("init")  # the merge driver
    ann.run("tasks", "edit", "plan", "--priority", "3")
    ann.run("sync")
    bob.run("tasks", "edit", "plan", "--assignee", "carol")
    bob.git("pull", "-q", "--no-rebase", "--no-edit")
    assert "priority: 3" in bob.read("tasks/plan/TASK.md")
    assert "assignee: carol" in bob.read("tasks/plan/TASK.md")
    bob.git("push", "-q")
    ann.run("tasks", "edit", "plan", "--priority", "4")
    ann.run("sync")
    bob.run("tasks", "edit", "plan", "--priority", "5")
    with pytest.raises(subprocess.CalledProcessError):
        bob.git("pull", "-q", "--no-rebase", "--no-edit")
    assert "priority: 5" in bob.read("tasks/plan/TASK.md")
    assert [row for row in bob.json("check") if row["severity"] == "error"] == []
    bob.git("commit", "-q", "-a", "--no-edit")
    rounds(bob, ann)
    level(ann, bob)
    assert front(ann, "plan")["priority"] == 5


def test_an_edit_that_lies_there_unsaved_to_git_goes_along_and_one_that_is_staged_stays_staged(ann, bob):
    ann.task("plan", "nobody")
    rounds(ann, bob)
    bob.write("staged.txt", "staged\n")
    bob.git("add", "staged.txt")
    bob.write("tasks/plan/TASK.md", bob.read("tasks/plan/TASK.md").replace("Do it.", "Do it well."))
    bob.run("sync")
    ann.run("sync")
    assert "Do it well." in ann.read("tasks/plan/TASK.md")
    assert bob.git("status", "--porcelain") == "A  staged.txt"


def test_while_git_is_busy_here_it_is_joined_and_written_out_later(ann, bob):
    ann.task("plan", "nobody")
    ann.run("sync")
    bob.git("switch", "-q", "-c", "side")
    told = bob.json("sync")
    assert "side is checked out" in told["paused"]
    assert not (bob.root / "tasks").exists()
    assert [row["id"] for row in bob.json("tasks")] == ["plan"]
    bob.git("switch", "-q", "main")
    bob.run("sync")
    level(ann, bob)


# -- remotes that are not as they should be


def test_a_remote_that_is_away_is_said_and_nothing_has_changed(ann, hub):
    ann.write("tasks/plan/TASK.md", "---\nid: plan\n---\n# Plan\n")
    before = ann.git("for-each-ref")
    hub.rename(hub.with_name("gone.git"))
    failed = ann.run("sync", code=7)
    assert failed.err.startswith(f"ravi: remote origin ({hub}): ")
    assert "does not" in failed.err
    assert "nothing is lost" in failed.err
    assert ann.git("for-each-ref") == before
    hub.with_name("gone.git").rename(hub)
    ann.run("sync")
    level(ann)


def test_a_remote_that_git_does_not_know_is_said(workspace):
    failed = workspace.run("sync", code=4)
    assert "git knows no remote `origin`" in failed.err
    assert "git remote add origin URL" in failed.err


def test_a_remote_with_a_checkout_of_its_own_is_refused_in_words(ann, tmp_path, environ):
    there = tmp_path / "there"
    subprocess.run(["git", "clone", "-q", str(ann.root), str(there)], check=True, env=environ)
    ann.git("remote", "add", "there", str(there))
    ann.task("plan", "nobody")
    failed = ann.run("sync", "--remote", "there", code=5)
    assert "clones share a bare repository" in failed.err


def test_two_workspaces_that_began_apart_are_not_joined(ann, hub, tmp_path, environ):
    other = type(ann)(tmp_path / "other", environ)
    other.root.mkdir()
    other.git("init", "-q")  # in one second of one person, two that `ravi init` begins would be one
    other.git("commit", "-q", "--allow-empty", "-m", "another beginning")
    other.run("init")
    other.git("remote", "add", "origin", str(hub))
    before = other.git("rev-parse", "refs/ravi/main")
    assert "have no commit in common" in other.run("sync", code=5).err
    assert other.git("rev-parse", "refs/ravi/main") == before
    assert other.git("for-each-ref", "refs/ravi/leader") == ""  # the leader of another workspace is none of ours


def test_a_remote_that_declines_is_told_in_its_words_and_what_was_joined_stays(ann, bob, hub):
    _hook(hub, "update", "echo not on a Friday >&2; exit 1")
    ann.task("plan", "nobody")
    failed = ann.run("sync", code=5)
    assert "remote origin" in failed.err
    assert "declined" in failed.err
    (hub / "hooks" / "update").unlink()
    rounds(ann, bob)
    level(ann, bob)


def test_a_run_may_not_sync(ann):
    ann.agent("spy", 'ravi sync; echo "code $?"\n')
    ann.task("look", "spy")
    ann.up()
    assert "code 6" in ann.run("runs", "show", "look.1").out


def test_a_remote_that_moves_between_fetch_and_push_is_fetched_again(ann, bob, hub):
    bob.task("from-bob", "nobody")
    bob.run("sync")
    late = hub_tip(ann, "refs/heads/main")
    earlier = ann.git("rev-parse", "refs/ravi/main")
    for ref in ("refs/heads/main", "refs/ravi/main"):  # as it was before Bob pushed
        subprocess.run(["git", "update-ref", ref, earlier], cwd=hub, check=True)
    _between(hub, [f"refs/heads/main {late}", f"refs/ravi/main {late}"])
    ann.task("from-ann", "nobody")
    ann.run("sync")
    assert not (hub / "once").exists()
    rounds(bob, ann)
    level(ann, bob)
    assert [row["id"] for row in ann.json("tasks")] == ["from-ann", "from-bob"]


def test_many_syncs_at_once_come_to_one_line(ann, bob, clone):
    clones = (ann, bob, clone("carol"))
    for place in clones:
        for number in range(3):
            place.task(f"{place.root.name}-{number}", "nobody")
            place.run("check")
    going = [place.start("sync") for place in clones * 2]
    for process in going:
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 0, out
    rounds(*clones)
    level(*clones)
    assert len(bob.json("tasks")) == 9


# -- who leads


def test_who_takes_over_leads_and_the_former_leader_hears_of_it(ann, bob):
    told = bob.json("sync", "--lead")
    assert told["took_over"] is True
    assert told["leader"]["here"] is True
    assert told["leader"]["epoch"] == 2
    told = ann.json("sync")
    assert told["deposed"] is True
    assert told["leader"]["here"] is False
    assert "has taken over; no runs are started here any more" in told["said"][0]
    assert ann.json("sync")["deposed"] is False
    rounds(ann, bob)
    level(ann, bob)
    assert "leads, epoch 2" in ann.git("log", "--format=%s")
    again = ann.json("sync", "--lead")
    assert again["leader"]["epoch"] == 3


def test_two_that_take_over_at_once_are_one_leader_after_the_other(ann, bob, clone):
    carol = clone("carol")
    going = [place.start("sync", "--lead") for place in (bob, carol)]
    for process in going:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    rounds(ann, bob, carol)
    leaders = {place.json("sync")["leader"]["clone"] for place in (ann, bob, carol)}
    assert len(leaders) == 1
    assert sum(place.json("sync")["leader"]["here"] for place in (ann, bob, carol)) == 1
    level(ann, bob, carol)


def test_the_push_of_a_deposed_leader_fails_as_a_whole(ann, bob, hub):
    """Bob takes over between Ann's fetch and her push: not one ref of hers may move."""
    before = _refs(hub)
    bob.run("sync", "--lead")
    after = _refs(hub)
    for ref, oid in before.items():
        subprocess.run(["git", "update-ref", ref, oid], cwd=hub, check=True)
    _between(hub, [f"{ref} {oid}" for ref, oid in after.items()], then="exit 0")
    ann.task("plan", "nobody")
    told = ann.json("sync")
    assert not (hub / "once").exists()
    assert told["deposed"] is True
    assert told["leader"]["epoch"] == 2
    rounds(bob, ann)
    level(ann, bob)
    assert json.loads(ann.git("cat-file", "blob", "refs/ravi/leader"))["epoch"] == 2


def test_live_runs_are_pushed_and_taken_away_when_they_are_over(ann, bob, hub, until):
    ann.agent("slow", "until [ -e $RAVI_WORKSPACE/.ravi/go ]; do sleep 0.05; done\n")
    ann.task("wait", "slow")
    daemon = ann.start("up")
    try:
        until(lambda: ann.git("for-each-ref", "refs/ravi/runs/"))
        ann.run("sync")
        assert hub_tip(ann, "refs/ravi/runs/wait.1") == ann.git("rev-parse", "refs/ravi/runs/wait.1")
        (ann.root / ".ravi" / "go").write_text("")
        until(lambda: front(ann, "wait")["status"] == "done")
        ann.run("sync")
        assert "refs/ravi/runs" not in ann.git("ls-remote", "origin")
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.communicate(timeout=30)


def test_a_take_over_that_was_killed_half_way_is_finished_by_the_next_sync(ann, bob, until):
    ann.agent("slow", "until [ -e $RAVI_WORKSPACE/.ravi/go ]; do sleep 0.05; done\n")
    ann.task("wait", "slow")
    daemon = ann.start("up")
    try:
        until(lambda: ann.git("for-each-ref", "refs/ravi/runs/"))
        ann.run("sync")
        bob.run("sync")
        refs = ("refs/ravi/main", "refs/ravi/leader", "HEAD", "refs/ravi/published")
        before = {ref: bob.git("rev-parse", ref) for ref in refs}
        bob.run("sync", "--lead")
        for ref, oid in before.items():
            bob.git("update-ref", ref, oid)
        bob.git("update-ref", "-d", "refs/ravi/runs/wait.1")
        assert bob.json("sync")["leader"]["here"] is True
        assert bob.git("rev-parse", "refs/ravi/runs/wait.1") == ann.git("rev-parse", "refs/ravi/runs/wait.1")
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.communicate(timeout=30)


def test_a_task_that_two_leaders_worked_on_apart_is_done_once(ann, bob, hub):
    ann.agent("maker", 'mkdir -p outputs; echo "made in $RAVI_WORKSPACE" > outputs/made.txt; echo made\n')
    ann.task("make", "maker")
    rounds(ann, bob)
    away(ann)
    bob.run("sync", "--lead")
    ann.up()
    bob.up()
    assert runs(ann) == runs(bob) == {"make.1": "succeeded"}
    bob.run("sync")
    back(ann, hub)
    told = ann.json("sync")
    assert told["deposed"] is True
    assert told["withheld"] == ["make.1"]
    assert told["conflicts"] == []
    rounds(bob, ann)
    level(ann, bob)
    for place in (ann, bob):
        task = front(place, "make")
        assert (task["status"], task["runs"]) == ("done", ["make.1"])
        assert place.read("tasks/make/outputs/made.txt") == f"made in {bob.root}\n"
        assert "Run make.1 of agent maker also succeeded in a clone that did not lead" in task["comments"][0]["text"]
        assert len(task["comments"]) == 1
        assert place.run("check").out == "no mistakes found\n"
    assert "make.1" in bob.run("why", "make.1").out
    assert "make.1" in ann.run("tree", "make").out
    shown = task["comments"][0]["text"].partition("`")[2].partition("`")[0].split()[1:]
    assert f"made in {ann.root}" in ann.git(*shown)
    assert bob.up().out.strip() == "idle"
    assert front(bob, "make")["runs"] == ["make.1"]


def test_a_run_that_ended_after_its_leader_was_deposed_does_not_come_back(ann, bob, hub, until):
    ann.agent(
        "slow",
        '[ "$RAVI_RUN" != wait.1 ] || until [ -e $RAVI_WORKSPACE/.ravi/go ]; do sleep 0.05; done\n'
        "mkdir -p outputs; echo $RAVI_RUN > outputs/by.txt\n",
    )
    ann.task("wait", "slow")
    daemon = ann.start("up")
    try:
        until(lambda: ann.git("for-each-ref", "refs/ravi/runs/"))
        ann.run("sync")
        bob.run("sync", "--lead")
        bob.up()
        assert runs(bob) == {"wait.1": "interrupted", "wait.2": "succeeded"}
        bob.run("sync")
        (ann.root / ".ravi" / "go").write_text("")
        until(lambda: front(ann, "wait")["status"] == "done")
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.communicate(timeout=30)
    assert ann.json("sync")["withheld"] == ["wait.1"]
    rounds(bob, ann)
    level(ann, bob)
    for place in (ann, bob):
        assert runs(place) == {"wait.1": "interrupted", "wait.2": "succeeded"}
        assert place.read("tasks/wait/outputs/by.txt") == "wait.2\n"
        assert front(place, "wait")["status"] == "done"


def test_a_run_that_nobody_did_again_comes_back_from_a_deposed_leader(ann, bob, hub):
    ann.agent("maker", "mkdir -p outputs; echo made > outputs/made.txt\n")
    ann.task("make", "maker")
    rounds(ann, bob)
    away(ann)
    bob.run("sync", "--lead")
    ann.up()
    back(ann, hub)
    assert ann.json("sync")["withheld"] == []
    rounds(bob, ann)
    level(ann, bob)
    bob.up()
    assert runs(bob) == {"make.1": "succeeded"}
    assert front(bob, "make")["status"] == "done"


def test_a_run_of_a_deposed_leader_that_met_a_persons_text_puts_its_task_in_review(ann, bob, hub):
    ann.write("notes/poem.txt", "roses\n")
    ann.git("add", "notes")
    ann.git("commit", "-q", "-m", "a poem")
    ann.agent(
        "poet",
        'echo "by the agent" > "$RAVI_LANE/notes/poem.txt"\n',
        "permissions:\n  write: [notes/**]\n  read: [notes]\n",
    )
    ann.task("write", "poet")
    rounds(ann, bob)
    away(ann)
    bob.run("sync", "--lead")
    bob.write("notes/poem.txt", "by Bob\n")
    bob.git("commit", "-q", "-a", "-m", "mine")
    bob.run("sync")
    ann.up()
    assert ann.read("notes/poem.txt") == "by the agent\n"
    back(ann, hub)
    told = ann.json("sync")
    assert told["review"] == ["write"]
    rounds(bob, ann)
    level(ann, bob)
    assert ann.read("notes/poem.txt") == "by Bob\n"
    task = front(bob, "write")
    assert task["status"] == "review"
    assert "notes/poem.txt changed here and in run write.1" in task["blocker"]
    bob.up()
    assert front(bob, "write")["runs"] == ["write.1"]


def test_who_takes_over_acts_on_what_the_former_leader_had_not_seen(ann, bob):
    ann.task("whole", "nobody")
    ann.task("part", "nobody", extra="parent: whole\nreport_to: [task:whole]\n")
    ann.up()
    rounds(ann, bob)
    bob.run("tasks", "done", "part", "-m", "It is in.")
    bob.run("sync", "--lead")
    bob.up()
    assert "Task part" in front(bob, "whole")["comments"][0]["text"]
    rounds(ann, bob)
    ann.run("sync", "--lead")
    ann.up()
    assert len(front(ann, "whole")["comments"]) == 1
    rounds(bob, ann)
    level(ann, bob)


def test_a_fresh_clone_starts_from_what_is_there_and_replays_nothing(ann, clone):
    ann.agent("maker", "echo made\n")
    ann.task("old", "maker")
    ann.up()
    ann.run("sync")
    bob = clone("bob", synced=False)
    bob.run("sync", "--lead")
    bob.task("new", "maker")
    said = bob.up().err
    assert "run new.1: succeeded" in said
    assert "old.1" not in said
    rounds(bob, ann)
    level(ann, bob)


def test_a_sync_that_is_killed_at_any_moment_costs_nothing(ann, bob):
    seed = int(os.environ.get("RAVI_SEED", random.randrange(10_000)))
    print(f"RAVI_SEED={seed}")
    chance = random.Random(seed)
    started = time.monotonic()
    ann.run("sync")
    long = time.monotonic() - started
    wanted = set()
    for _ in range(100 if os.environ.get("RAVI_FAULTS") == "full" else 5):
        for place in (ann, bob):
            wanted.add(place.json("tasks", "new", "kept")["id"])
            process = subprocess.Popen(
                [sys.executable, "-m", "ravi", "sync"], cwd=place.root, env=place.environ,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            time.sleep(chance.uniform(0.3, 1.1) * long)  # this is the moment
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    rounds(ann, bob)
    rounds(ann, bob)
    level(ann, bob)
    assert {row["id"] for row in bob.json("tasks")} == wanted


# -- what a daemon asks


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def clones(said: list[str]) -> Iterator[Callable[[Clone], Clones]]:
    opened: list[App] = []

    def of(place: Clone) -> Clones:
        opened.append(App(str(place.root), place.environ))
        return Clones(opened[-1], said.append)

    yield of
    for app in opened:
        app.close()


def test_a_clone_that_never_synced_may_start_runs(workspace, clones, said):
    asked = clones(workspace)
    asked.look()
    assert (asked.follows(), said) == ("", [])


def test_a_clone_that_follows_knows_who_leads_and_notices_a_change(ann, bob, clones):
    here, there = clones(ann), clones(bob)
    assert here.follows() == ""
    assert there.follows().startswith(f"clone {clone_id(str(ann.root / '.git' / 'ravi'))} on ")
    bob.run("sync", "--lead")
    ann.run("sync")
    assert there.follows() == ""
    assert "ravi sync --lead" in here.follows()


def test_a_fresh_clone_asks_once_who_leads(ann, clone, clones, said, hub):
    bob = clone("bob", synced=False)
    asked = clones(bob)
    assert asked.follows() == ""
    asked.look()
    assert "leads" in asked.follows()
    away(bob)
    clones(bob).look()  # it asks no more
    assert said == []


def test_a_fresh_clone_whose_remote_is_away_says_that_it_does_not_know(ann, clone, clones, said):
    bob = clone("bob", synced=False)
    away(bob)
    asked = clones(bob)
    asked.look()
    assert asked.follows() == ""
    assert len(said) == 1
    assert said[0].startswith("who leads is not known yet: remote origin")


def test_a_daemon_syncs_now_and_then_and_says_it_once_when_the_remote_is_away(ann, bob, clones, said, until, hub):
    bob.write("ravi.yaml", bob.read("ravi.yaml") + "\nsync: 50ms\n")
    bob.run("sync")
    asked = clones(bob)
    asked.look()
    asked.start()
    try:
        ann.task("plan", "nobody")
        ann.run("sync")
        until((bob.root / "tasks/plan/TASK.md").exists)
        away(bob)
        until(lambda: said)
        back(bob, hub)
        until(lambda: len(said) > 1)
        bob.run("tasks", "edit", "plan", "--priority", "2")
    finally:
        asked.close()
    ann.run("sync")
    assert front(ann, "plan")["priority"] == 2
    assert said[0].startswith("sync: remote origin")
    assert said[1:] == ["sync: goes on"]


# -- steps


def hub_tip(place: Clone, ref: str) -> str:
    return place.git("ls-remote", "origin", ref).split()[0]


def _refs(hub: Path) -> dict[str, str]:
    out = subprocess.run(["git", "for-each-ref"], cwd=hub, check=True, capture_output=True, text=True).stdout
    return {line.split()[2]: line.split()[0] for line in out.splitlines()}


def _hook(hub: Path, name: str, script: str) -> None:
    place = hub / "hooks" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


def _between(hub: Path, moves: list[str], then: str = "exit 0") -> None:
    """Have refs moved, once, between what the next pusher saw and what it asks for."""
    (hub / "once").write_text("")
    free = "env -u GIT_QUARANTINE_PATH -u GIT_OBJECT_DIRECTORY -u GIT_ALTERNATE_OBJECT_DIRECTORIES"
    lines = [f"{free} git update-ref {move}" for move in moves]
    _hook(hub, "pre-receive", "\n".join(["[ -e once ] || exit 0", "rm once", *lines, then]))


@pytest.fixture
def daemons() -> Iterator[Callable[[Clone], Any]]:
    started: list[Any] = []

    def start(place: Clone) -> Any:
        started.append(place.start("up"))
        return started[-1]

    yield start
    for one in started:
        one.send_signal(signal.SIGINT)
    for one in started:
        one.communicate(timeout=30)


def test_a_clone_that_follows_takes_edits_and_starts_nothing(ann, bob):
    ann.agent("maker", "echo made\n")
    ann.run("sync")
    bob.run("sync")
    bob.task("make", "maker")
    said = bob.up().err
    assert "leads; runs are started there" in said
    assert "started by" not in said
    assert runs(bob) == {}
    assert bob.is_clean()
    rounds(bob, ann)
    ann.up()
    rounds(ann, bob)
    level(ann, bob)
    assert runs(bob) == {"make.1": "succeeded"}


def test_a_fresh_clone_of_a_led_workspace_starts_nothing_without_a_sync(ann, clone):
    ann.agent("maker", "echo made\n")
    ann.task("make", "maker")
    ann.run("sync")
    bob = clone("bob", synced=False)
    assert "leads; runs are started there" in bob.up().err
    assert runs(bob) == {}


def test_leading_changes_hands_while_both_daemons_run(ann, bob, daemons, until, hub):
    ann.write("ravi.yaml", ann.read("ravi.yaml") + "sync: 100ms\n")
    ann.agent("maker", '[ "$RAVI_RUN" != slow.1 ] || sleep 60\necho made\n')
    ann.task("first", "maker")
    rounds(ann, bob)
    daemons(ann), daemons(bob)
    until(lambda: runs(bob) == {"first.1": "succeeded"})
    ann.task("slow", "maker")
    until(lambda: ann.git("for-each-ref", "refs/ravi/runs/slow.1"))
    until(lambda: "slow.1" in ann.git("ls-remote", "origin"))
    bob.run("sync", "--lead")
    until(lambda: runs(bob).get("slow.2") == "succeeded")
    assert runs(bob)["slow.1"] == "interrupted"
    bob.task("second", "maker")
    until(lambda: front(ann, "second")["status"] == "done" if "second" in str(ann.json("tasks", "--all")) else False)
    assert runs(ann)["second.1"] == "succeeded"
