"""A publishing that is cut short, at every step it has: what the person finds, does, and gets in the end."""

import os
import subprocess
from pathlib import Path

import desk as desks
import pytest
from desk import NOTE, OTHER, TASK, Desk
from workshop import PLAIN, python

NEW = "tasks/2026/11/21/c/TASK.md"
STEPS = (
    "journal", "prepared", "locked", "branch", f"file {OTHER}", f"file {TASK}", f"file {NEW}",
    "files", "index", "unlocked", "synced", "published", "swept",
)  # fmt: skip
DYING = """
import desk, os
from pathlib import Path
def checkpoint(step):
    if step == sys.argv[2]:
        os._exit(9)
desk.opened(Path(sys.argv[1]), checkpoint=checkpoint, durable=True).publish()
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desks.made(tmp_path / "w")


def crash(desk: Desk, step: str) -> Desk:
    """Record an edit, a new file and a removal, and die while they are published."""
    desk.change(TASK, status="done")
    desk.write(NEW, "---\nid: c\n---\nNew.\n")
    desk.write(OTHER, None)
    done = subprocess.run(python(DYING, desk.root, step), env=os.environ | PLAIN, check=False, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    return desks.opened(desk.root)


def check(desk: Desk, status: str = "") -> None:
    assert desk.status() == status
    assert desk.leftovers() == []
    desk.store.fsck()


@pytest.mark.parametrize("step", STEPS)
def test_it_is_completed_and_nothing_is_taken_for_an_edit(desk, step):
    desk = crash(desk, step)
    assert desk.publisher.finish() == ""
    assert desk.ingest.look() == ()
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert desk.read(NEW).endswith("New.\n")
    assert not desk.has(OTHER)
    assert desk.is_level()
    assert desk.git("rev-list", "--count", "main") == "4"
    check(desk)


@pytest.mark.parametrize("step", STEPS)
def test_a_second_crash_while_it_is_completed_does_no_harm(desk, step):
    crash(desk, "files")
    subprocess.run(python(DYING, desk.root, step), env=os.environ | PLAIN, check=False, capture_output=True)
    desk = desks.opened(desk.root)
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert not desk.has(OTHER)
    assert desk.is_level()
    check(desk)


@pytest.mark.parametrize("step", STEPS)
def test_an_edit_made_before_it_is_completed_is_kept(desk, step):
    desk = crash(desk, step)
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.save(NEW, "---\nid: c\n---\nMine.\n")
    desk.settle()
    desk.settle()
    assert "Do it well." in desk.read(TASK)
    assert "status: done" in desk.read(TASK)
    assert desk.read(NEW).endswith("Mine.\n")
    assert desk.kept("---\nid: c\n---\nNew.\n")
    assert not desk.has(OTHER)
    check(desk)


@pytest.mark.parametrize("step", STEPS)
def test_a_commit_made_before_it_is_completed_reverts_nothing(desk, step):
    """The person removes the lock they find, as git tells them to, and commits all they see."""
    desk = crash(desk, step)
    (desk.root / ".git/index.lock").unlink(missing_ok=True)
    desk.save(NOTE, "mine\n")
    desk.git("commit", "-qam", "mine")
    desk.settle()
    assert desk.read(NOTE) == "mine\n"
    assert "status: done" in desk.read(TASK)
    assert desk.read(NEW).endswith("New.\n")
    assert not desk.has(OTHER)
    check(desk)


@pytest.mark.parametrize("step", STEPS)
def test_a_reset_made_before_it_is_completed_loses_nothing_recorded(desk, step):
    desk = crash(desk, step)
    (desk.root / ".git/index.lock").unlink(missing_ok=True)
    desk.git("reset", "-q", "--hard")
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert desk.read(NEW).endswith("New.\n")
    assert not desk.has(OTHER)
    check(desk)


@pytest.mark.parametrize("step", STEPS)
def test_it_waits_while_another_branch_is_checked_out(desk, step):
    desk.git("branch", "other")
    desk = crash(desk, step)
    (desk.root / ".git/index.lock").unlink(missing_ok=True)
    desk.git("switch", "-q", "--discard-changes", "other")
    before = {path: desk.read(path) for path in (TASK, OTHER) if desk.has(path)}
    assert desk.publish().paused
    assert {path: desk.read(path) for path in before} == before
    desk.git("clean", "-qfd", "tasks")  # a new file of ours is in git's way, and it says so
    desk.git("switch", "-q", "--discard-changes", "main")
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert desk.read(NEW).endswith("New.\n")
    assert not desk.has(OTHER)
    check(desk)


def old_version(desk: Desk) -> Path:
    """Where the old version lies of a file that was exchanged, when ravi died before it could be removed."""
    return next(path for path in (desk.root / TASK).parent.iterdir() if path.name.startswith(".ravi-"))


def test_what_is_written_into_the_old_file_after_the_crash_comes_back(desk):
    before = desk.read(TASK)
    desk = crash(desk, "files")
    old_version(desk).write_text(before.replace("Do it.", "Do it well."))  # an editor had it open
    desk.publisher.finish()
    desk.settle()
    assert "Do it well." in desk.read(TASK)
    assert "status: done" in desk.read(TASK)
    check(desk)


def test_what_is_written_into_the_old_file_and_then_saved_over_is_kept(desk):
    before = desk.read(TASK)
    desk = crash(desk, "files")
    first = before.replace("Do it.", "Do it well.")
    old_version(desk).write_text(first)
    desk.save(TASK, desk.read(TASK).replace("Then rest.", "Then sleep."))
    desk.publisher.finish()
    desk.settle()
    assert desk.kept(first)
    text = desk.read(TASK)
    assert ("Do it well." in text, "Then sleep." in text, "status: done" in text) == (True, True, True)
    check(desk)


def test_the_lock_of_somebody_else_is_not_taken_for_ours(desk):
    desk = crash(desk, "locked")
    (desk.root / ".git/index.lock").write_bytes(b"DIRC and so on")
    assert "git is at work" in desk.publish().paused
    assert (desk.root / ".git/index.lock").exists()


def test_a_journal_that_nobody_can_read_is_no_journal(desk):
    for data in (b"", b"{}", b"[1]", b"\xff"):
        (desk.root / ".git/ravi/publish.json").write_bytes(data)
        assert desk.publish().paused == ""
        check(desk)


class Dying(Exception):
    """The process is gone."""


def test_a_save_that_was_recorded_and_not_noted_is_recorded_once(desk, monkeypatch):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))

    def die(*_: object) -> None:
        raise Dying

    with monkeypatch.context() as patched:
        patched.setattr(desk.publisher, "point", die)
        with pytest.raises(Dying):
            desk.take()
    assert "Do it well." in desk.recorded(TASK)
    desk = desks.opened(desk.root)
    desk.change(TASK, status="done")
    desk.write(TASK, desk.recorded(TASK).replace("well", "very well"))  # an agent goes on from there
    desk.settle()
    assert "Do it very well." in desk.read(TASK)
    assert desk.git("log", "--format=%s", "main").count("edited by Ada") == 1
    check(desk)
