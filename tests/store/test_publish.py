"""Publishing into the checkout of a person who works there with git and an editor, at the same time."""

import os
import subprocess
import sys
from pathlib import Path

import desk as desks
import pytest
from desk import NOTE, OTHER, START, TASK, Desk
from workshop import AUTHOR, PLAIN, TRACE, python, shell

from ravi.core.trailers import Message
from ravi.errors import Unavailable
from ravi.store import exchange
from ravi.store.checkout import person
from ravi.store.refs import MAIN, PUBLISHED, Refs
from ravi.store.writer import Draft


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desks.made(tmp_path / "w")


def check(desk: Desk, status: str = "") -> None:
    """All that must hold when both are done."""
    assert desk.status() == status
    assert desk.leftovers() == []
    desk.store.fsck()


# -- alone


def test_what_is_recorded_comes_to_branch_files_and_index_together(desk):
    desk.change(TASK, status="done")
    desk.write("tasks/x/TASK.md", "---\nid: x\n---\n")
    desk.write(OTHER, None)
    done = desk.publish()
    assert set(done.written) == {TASK, "tasks/x/TASK.md", OTHER}
    assert done.held == {}
    assert desk.is_level()
    assert "status: done\n" in desk.read(TASK)
    assert not desk.has("tasks/2026/11/20/b")  # an empty folder goes too
    assert "# a comment" in desk.read(TASK)
    check(desk)
    assert desk.git("diff-files", "--name-only") == ""  # the index knows the files as they are


def test_publishing_twice_writes_once(desk):
    desk.change(TASK, status="done")
    assert desk.publish().written == (TASK,)
    inode = os.stat(desk.root / TASK).st_ino
    assert desk.publish().written == ()
    assert os.stat(desk.root / TASK).st_ino == inode


def test_a_repository_without_a_commit_gets_its_first_one(tmp_path):
    root = tmp_path / "w"
    shell("init", "-q", "-b", "main", str(root), cwd=tmp_path)
    desk = desks.opened(root)
    assert desk.publish().commit is None
    desk.write("ravi.yaml", "name: new\n")
    assert desk.publish().written == ("ravi.yaml",)
    assert desk.is_level()
    check(desk)


def test_rights_links_and_programs_are_as_the_tree_says(desk):
    desk.save("agents/ann/run.sh", "#!/bin/sh\n")
    (desk.root / "agents/ann/run.sh").chmod(0o755)
    (desk.root / "agents/ann/link").symlink_to("run.sh")
    desk.git("add", "-A")
    desk.git("commit", "-qm", "a program")
    desk.git("reset", "-q", "--hard", "HEAD~1")
    desk.git("merge", "-q", "--ff-only", "HEAD@{1}")
    desk.publish()
    desk.write("agents/ann/run.sh", "#!/bin/sh\necho\n")
    os.chmod(desk.root / "agents/ann/AGENT.md", 0o600)
    desk.change("agents/ann/AGENT.md", model="m")
    desk.publish()
    assert os.access(desk.root / "agents/ann/run.sh", os.X_OK)
    assert os.stat(desk.root / "agents/ann/AGENT.md").st_mode & 0o777 == 0o600
    assert os.readlink(desk.root / "agents/ann/link") == "run.sh"
    check(desk)


def test_many_files_are_one_batch(desk):
    tip = desk.store.refs.read(MAIN)
    files = {f"tasks/{n}/TASK.md": f"---\nid: t{n}\n---\n".encode() for n in range(600)}
    desk.store.writer.record(lambda _: Draft(Message("many"), files, AUTHOR))
    assert len(desk.publish().written) == 600
    desk.store.writer.record(lambda at: Draft(Message("none"), {}, AUTHOR, tree=desk.store.objects.commit(tip).tree))
    assert len(desk.publish().written) == 600
    assert sorted(os.listdir(desk.root / "tasks")) == ["2026"]
    check(desk)


def test_a_folder_takes_the_place_of_a_file_and_the_other_way_round(desk):
    desk.write("tasks/x", "a file\n")
    desk.publish()

    def swap(gone: str, come: str) -> None:
        desk.store.writer.record(lambda _: Draft(Message("swap"), {gone: None, come: b"text\n"}, AUTHOR))

    swap("tasks/x", "tasks/x/y/TASK.md")
    assert desk.publish().held == {}
    assert desk.read("tasks/x/y/TASK.md") == "text\n"
    check(desk)
    swap("tasks/x/y/TASK.md", "tasks/x")
    assert desk.publish().held == {}
    assert desk.read("tasks/x") == "text\n"
    check(desk)


# -- beside somebody's edits


def test_a_file_with_an_edit_in_it_is_held_and_the_edit_taken_in(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.change(TASK, status="done")
    desk.change(OTHER, status="done")
    done = desk.publish()
    assert done.held == {TASK: "edited"}
    assert done.written == (OTHER,)
    assert "status: open" in desk.read(TASK)
    assert desk.status() == f" M {TASK}"
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert "Do it well." in desk.read(TASK)
    assert desk.is_level()
    check(desk)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell who writes")
def test_a_file_that_an_editor_is_about_to_write_is_held(desk):
    desk.change(TASK, status="done")
    before = desk.read(TASK)
    with open(desk.root / TASK, "r+") as editor:
        assert desk.publish().held == {TASK: "edited"}
        editor.write(before.replace("Do it.", "Do it well."))
    desk.settle()
    assert "Do it well." in desk.read(TASK)
    assert "status: done" in desk.read(TASK)
    check(desk)


def test_an_edit_made_while_the_index_is_written_is_not_hidden_from_git(desk):
    """The index must not have the numbers of the person's file beside the content of ours."""
    desk.change(TASK, status="done")
    mine: list[str] = []

    def checkpoint(step: str) -> None:
        if step == "files":
            mine.append(desk.read(TASK).replace("Do it.", "Do 1t."))  # as long as ours
            desk.save(TASK, mine[0])

    other = desks.opened(desk.root, checkpoint=checkpoint)
    other.publish()
    assert desk.status() == f" M {TASK}"
    desk.settle()
    assert desk.read(TASK) == mine[0]
    check(desk)


def test_an_unknown_file_in_the_way_stays(desk):
    desk.save("new.txt", "mine\n")
    desk.write("new.txt", "ravi's\n")
    assert desk.publish().held == {"new.txt": "edited"}
    assert desk.read("new.txt") == "mine\n"
    desk.git("add", "new.txt")
    desk.git("commit", "-qm", "mine")
    desk.publish()
    assert desk.read("new.txt") == "mine\n"
    assert desk.kept("ravi's\n")
    check(desk)


def test_a_link_in_the_way_is_not_followed(desk, tmp_path):
    (tmp_path / "outside").mkdir()
    (desk.root / "tasks/2026/11/20/c").symlink_to(tmp_path / "outside")
    desk.write("tasks/2026/11/20/c/TASK.md", "---\nid: c\n---\n")
    assert desk.publish().held == {"tasks/2026/11/20/c/TASK.md": "blocked"}
    assert os.listdir(tmp_path / "outside") == []
    (desk.root / "tasks/2026/11/20/c").unlink()
    desk.publish()
    assert desk.read("tasks/2026/11/20/c/TASK.md") == "---\nid: c\n---\n"
    check(desk)


def test_a_folder_in_the_way_stays(desk):
    desk.save("tasks/x/notes/mine.txt", "mine\n")
    desk.write("tasks/x/notes", "a file\n")
    assert "tasks/x/notes" in desk.publish().held
    assert desk.read("tasks/x/notes/mine.txt") == "mine\n"


def test_what_somebody_deleted_is_not_brought_back(desk):
    (desk.root / TASK).unlink()
    desk.change(TASK, status="done")
    assert desk.publish().held == {TASK: "edited"}
    assert not desk.has(TASK)
    desk.git("checkout", "--", TASK)
    desk.publish()
    assert "status: done" in desk.read(TASK)
    check(desk)


def test_staged_edits_are_left_to_the_person(desk):
    staged = desk.read(TASK).replace("Do it.", "Do it twice.")
    desk.save(TASK, staged)
    desk.git("add", TASK)
    desk.change(TASK, status="done")
    desk.change(OTHER, status="done")
    assert desk.publish().held == {TASK: "staged"}
    assert desk.git("show", f":{TASK}") == staged.rstrip("\n")
    assert desk.status() == f"M  {TASK}"
    desk.settle()
    assert desk.git("show", f":{TASK}") == staged.rstrip("\n")
    desk.git("commit", "-qm", "twice")
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert "Do it twice." in desk.read(TASK)
    check(desk)


def test_a_part_of_an_edit_can_be_staged(desk):
    first = desk.read(TASK).replace("Do it.", "Do it well.")
    desk.save(TASK, first)
    desk.git("add", TASK)
    desk.save(TASK, first.replace("Then rest.", "Then sleep."))
    desk.change(TASK, status="done")
    desk.settle()
    assert desk.status() == f"MM {TASK}"
    desk.git("commit", "-qm", "well")
    desk.settle()
    text = desk.read(TASK)
    assert ("status: done" in text, "Do it well." in text, "Then sleep." in text) == (True, True, True)
    check(desk)


# -- beside somebody's git


def commit_all(desk: Desk) -> None:
    desk.save(NOTE, "one\ntwo\nthree\nfour\n")
    desk.git("commit", "-qam", "four")


def test_a_commit_is_taken_in_as_it_is(desk):
    commit_all(desk)
    tip = desk.git("rev-parse", "HEAD")
    desk.publish()
    assert desk.store.refs.read(MAIN) == tip
    assert desk.is_level()
    check(desk)


def test_a_commit_beside_what_was_recorded_is_merged(desk):
    desk.change(TASK, status="done")
    commit_all(desk)
    mine = desk.git("rev-parse", "HEAD")
    assert desk.publish().written == (TASK,)
    assert desk.git("rev-list", "--parents", "-1", "HEAD").split()[2] == mine
    assert desk.read(NOTE).endswith("four\n")
    assert "status: done" in desk.read(TASK)
    assert desk.git("log", "-1", "--format=%an <%ae>, %cn") == "Ada <ada@example.org>, ravi"
    check(desk)


def test_commit_all_with_a_held_file_reverts_nothing(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("commit", "-qam", "well")
    desk.publish()
    assert "status: done" in desk.read(TASK)
    assert "Do it well." in desk.read(TASK)
    check(desk)


def test_a_commit_of_something_else_leaves_a_held_file_held(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.change(TASK, status="done")
    desk.publish()
    desk.save(NOTE, "other\n")
    desk.git("commit", "-qm", "other", NOTE)
    assert desk.publish().held == {TASK: "edited"}
    assert desk.status() == f" M {TASK}"
    desk.settle()
    assert "status: done" in desk.read(TASK)
    assert "Do it well." in desk.read(TASK)
    check(desk)


def test_in_a_true_conflict_the_persons_commit_wins_and_it_is_told(desk):
    desk.change(TASK, status="done")
    desk.save(TASK, desk.read(TASK).replace("status: open", "status: failed"))
    desk.git("commit", "-qam", "it failed")
    done = desk.publish()
    assert done.conflicts == ((TASK, "status"),)
    assert "status: failed" in desk.read(TASK)
    assert "+status: done" in desk.history()
    check(desk)


def test_an_amended_commit_of_ravis_is_taken_in(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.save(NOTE, "amended\n")
    desk.git("commit", "-qa", "--amend", "-m", "mine now")
    desk.change(OTHER, status="done")
    desk.publish()
    assert desk.read(NOTE) == "amended\n"
    assert "status: done" in desk.read(TASK)
    assert "status: done" in desk.read(OTHER)
    assert "mine now" in desk.git("log", "--format=%s", "main")
    check(desk)


def test_a_rebase_that_drops_a_commit_of_ravis_undoes_it(desk):
    desk.change(OTHER, status="failed")
    desk.publish()
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("rebase", "-q", "-i", "HEAD~2", env={"GIT_SEQUENCE_EDITOR": "sed -i 1d"})
    assert "status: open" in desk.read(OTHER)
    desk.publish()
    assert "status: open" in desk.read(OTHER)
    assert "status: done" in desk.read(TASK)
    assert "status: open" in desk.recorded(OTHER)
    assert "+status: failed" in desk.history()
    check(desk)


def test_a_rebase_under_way_is_waited_for(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("rebase", "-q", "-i", "HEAD~1", env={"GIT_SEQUENCE_EDITOR": "sed -i s/^pick/edit/"})
    desk.change(OTHER, status="done")
    assert "a rebase is under way" in desk.publish().paused
    assert "status: open" in desk.read(OTHER)
    desk.git("rebase", "--continue", env={"GIT_EDITOR": "true"})
    assert desk.publish().written == (OTHER,)
    check(desk)


def test_a_reset_backwards_is_an_undo(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("reset", "-q", "--hard", "HEAD~1")
    desk.change(OTHER, status="done")
    desk.publish()
    assert "status: open" in desk.recorded(TASK)
    assert "status: open" in desk.read(TASK)
    assert "status: done" in desk.read(OTHER)
    assert desk.git("log", "--format=%an: %s", "--grep=set back", "main").startswith("Ada: workspace: set back to ")
    check(desk)


def test_a_soft_reset_leaves_all_of_it_staged(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("reset", "-q", "--soft", "HEAD~1")
    desk.settle()
    assert desk.status() == f"M  {TASK}"
    desk.git("commit", "-qm", "again, in my words")
    desk.settle()
    assert "status: done" in desk.recorded(TASK)
    check(desk)


def test_a_mixed_reset_leaves_an_edit_which_is_taken_in(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("reset", "-q", "HEAD~1")
    desk.settle()
    assert "status: done" in desk.recorded(TASK)
    check(desk)


def test_a_stash_comes_back_into_what_changed_meanwhile(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.save(NOTE, "stashed\n")
    desk.git("stash", "-q")
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("stash", "pop", "-q")
    desk.settle()
    assert desk.read(NOTE) == "stashed\n"
    assert "status: done" in desk.read(TASK)
    assert "Do it well." in desk.read(TASK)
    check(desk, f" M {NOTE}")


def test_a_stash_of_a_held_file_loses_nothing(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.change(TASK, status="done", updated="2026-11-20T11:00:00.000Z")
    assert desk.publish().held == {TASK: "edited"}
    desk.git("stash", "-q")
    desk.settle()
    assert "status: done" in desk.read(TASK)
    check(desk)
    desk.git("stash", "pop", "-q")
    desk.settle()
    assert "status: done" in desk.read(TASK)  # the stamp in the stashed file says which version it began with
    assert "Do it well." in desk.read(TASK)
    check(desk)


def test_another_branch_is_left_alone(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("switch", "-qc", "other", "HEAD~1")
    desk.change(OTHER, status="done")
    done = desk.publish()
    assert done.paused == "other is checked out, the main line is main"
    assert "status: open" in desk.read(OTHER)
    assert desk.take().paused
    desk.save(NOTE, "on other\n")
    desk.git("commit", "-qam", "on other")
    desk.git("switch", "-q", "main")
    assert desk.settle().written == (OTHER,)
    assert "status: done" in desk.read(TASK)
    assert desk.read(NOTE) == START[NOTE]
    check(desk)


def test_a_detached_head_is_left_alone(desk):
    desk.git("switch", "-q", "--detach", "HEAD")
    desk.change(TASK, status="done")
    assert "detached" in desk.publish().paused
    desk.git("switch", "-q", "main")
    assert desk.publish().written == (TASK,)
    check(desk)


def test_a_merge_under_way_is_waited_for_and_then_taken_in(desk):
    desk.git("switch", "-qc", "side")
    desk.save(NOTE, "side\n")
    desk.git("commit", "-qam", "side")
    desk.git("switch", "-q", "main")
    commit_all(desk)
    desk.publish()
    desk.git("merge", "-q", "side", ok=False)
    desk.change(TASK, status="done")
    assert desk.publish().paused.startswith("a merge is under way")
    desk.save(OTHER, "---\nid: b\n---\n")
    assert desk.take().paused.startswith("a merge is under way")
    desk.git("checkout", OTHER)
    assert "<<<<<<<" in desk.read(NOTE)
    desk.save(NOTE, "both\n")
    desk.git("commit", "-qam", "merged")
    assert desk.publish().written == (TASK,)
    assert desk.read(NOTE) == "both\n"
    check(desk)


@pytest.mark.parametrize("what", ["cherry-pick", "revert"])
def test_a_pick_under_way_is_waited_for(desk, what):
    commit_all(desk)
    desk.save(NOTE, "five\n")
    desk.git("commit", "-qam", "five")
    desk.publish()
    desk.git(what, "HEAD~1", ok=False)
    desk.change(TASK, status="done")
    assert what in desk.publish().paused
    desk.git(what, "--abort")
    assert desk.publish().written == (TASK,)
    check(desk)


def test_a_revert_of_ravis_commit_undoes_it(desk):
    desk.change(TASK, status="done")
    desk.publish()
    desk.git("revert", "--no-edit", "HEAD")
    desk.publish()
    assert "status: open" in desk.recorded(TASK)
    assert desk.is_level()
    check(desk)


def test_a_pull_is_taken_in_beside_what_was_recorded(desk, tmp_path):
    shell("clone", "-q", str(desk.root), str(tmp_path / "clone"), cwd=tmp_path)
    (tmp_path / "clone" / NOTE).write_text("from the clone\n")
    shell("commit", "-qam", "clone", cwd=tmp_path / "clone")
    desk.change(TASK, status="done")
    desk.git("pull", "-q", str(tmp_path / "clone"), "main")
    desk.publish()
    assert desk.read(NOTE) == "from the clone\n"
    assert "status: done" in desk.read(TASK)
    check(desk)


def test_a_branch_that_was_pushed_to_is_written_out(desk, tmp_path):
    shell("clone", "-q", str(desk.root), str(tmp_path / "clone"), cwd=tmp_path)
    (tmp_path / "clone" / NOTE).write_text("from the clone\n")
    shell("commit", "-qam", "clone", cwd=tmp_path / "clone")
    desk.git("config", "receive.denyCurrentBranch", "ignore")
    shell("push", "-q", "origin", "main", cwd=tmp_path / "clone")
    desk.publish()
    assert desk.read(NOTE) == "from the clone\n"
    check(desk)


def test_the_lock_of_another_git_is_waited_for_and_never_broken(desk):
    (desk.root / ".git/index.lock").write_bytes(b"")
    desk.change(TASK, status="done")
    assert "git is at work here" in desk.publish().paused
    desk.save(OTHER, START[OTHER] + "More.\n")
    assert desk.take().paused
    desk.save(OTHER, START[OTHER])
    (desk.root / ".git/index.lock").unlink()
    assert desk.publish().written == (TASK,)
    check(desk)


def test_a_commit_message_that_is_being_written_is_not_made_worthless(desk):
    desk.save(NOTE, "edited\n")
    desk.git("add", NOTE)
    script = desk.root / ".git/editor"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{os.path.dirname(__file__)!r}]\n"
        f"import desk\nfrom pathlib import Path\nd = desk.opened(Path({str(desk.root)!r}))\n"
        f"Path(sys.argv[1]).write_text('well')\nd.change({TASK!r}, status='done')\n"
        f"Path({str(desk.root)!r}, '.git/said').write_text(d.publish().paused)\n"
    )
    script.chmod(0o755)
    desk.git("commit", "-q", env={"GIT_EDITOR": str(script)})
    assert (desk.root / ".git/said").read_text() == "a commit message is being written"
    assert desk.publish().written == (TASK,)
    assert desk.git("log", "--format=%s", "--no-merges", "-1", "--author=Ada", "--", NOTE) == "well"
    check(desk)


def test_a_linked_worktree_is_a_workspace_too(desk, tmp_path):
    desk.git("switch", "-qc", "other")
    desk.git("worktree", "add", "-q", str(tmp_path / "linked"), "main")
    linked = desks.opened(tmp_path / "linked")
    linked.change(TASK, status="done")
    assert linked.publish().written == (TASK,)
    assert linked.status() == ""
    assert "status: open" in desk.read(TASK)
    linked.store.fsck()


# -- before and after


def test_a_clone_that_lags_behind_what_it_recorded_is_merged(desk):
    """The refs of ravi came along, but not what was last published."""
    desk.change(TASK, status="done")
    commit_all(desk)
    desk.git("update-ref", "-d", PUBLISHED)
    desk.publish()
    assert desk.read(NOTE).endswith("four\n")
    assert "status: done" in desk.read(TASK)
    assert desk.is_level()
    check(desk)


def test_who_works_here_is_gits_identity_or_the_login_name(desk):
    assert person(desk.store.dirs) == ("Ada", "ada@example.org")
    desk.git("config", "--unset", "user.name")
    desk.git("config", "--unset", "user.email")
    name, mail = person(desk.store.dirs)
    assert name
    assert "@" in mail


@pytest.mark.skipif(not os.path.exists("/usr/bin/strace"), reason="needs strace")
@pytest.mark.parametrize("call", ["renameat2", "rename", "fsync", "unlink"])
def test_a_disk_that_fails_says_so_and_the_next_try_completes_it(desk, call):
    desk.change(TASK, status="done")
    desk.change(OTHER, status="done")
    code = (
        "import desk; from pathlib import Path\nfrom ravi.errors import Unavailable\n"
        "d = desk.opened(Path(sys.argv[1]), durable=True)\n"
        "try:\n    d.publish()\nexcept Unavailable as fault:\n    print('told', fault)\n"
    )
    for n in range(1, 6):
        fail = ["-e", f"inject={call}:error=EIO:when={n}"]
        subprocess.run(
            [*TRACE, *fail, *python(code, desk.root)], env=os.environ | PLAIN, check=False, capture_output=True
        )
        desk.publisher.finish()
        desk.store.fsck()
        for path in (TASK, OTHER):
            assert desk.read(path) in (START[path], START[path].replace("open", "done"))
    desk.publish()
    assert "status: done" in desk.read(TASK)
    assert desk.is_level()
    check(desk)


def test_a_branch_that_moved_though_the_disk_said_no_is_not_taken_for_the_persons_move(desk, monkeypatch):
    desk.change(TASK, status="done")
    swap = Refs.swap

    def moved(refs: Refs, name: str, *rest: str | None, **more: str) -> None:
        swap(refs, name, *rest, **more)
        if name == "refs/heads/main":
            raise OSError(5, "Input/output error", name)

    with monkeypatch.context() as patched:
        patched.setattr(Refs, "swap", moved)
        with pytest.raises(Unavailable, match="Input/output error"):
            desk.publish()
    desk.publish()
    assert "status: done" in desk.read(TASK)
    assert desk.is_level()
    assert desk.leftovers() == []
    assert desk.git("status", "--porcelain") == ""


@pytest.mark.parametrize("size", [0, 5])
def test_half_a_file_that_a_crash_left_is_not_taken_for_somebodys_text(desk, size):
    desk.change(TASK, status="done")
    code = (
        "import desk, os; from pathlib import Path\nfrom ravi.store import exchange\n"
        "def half(fd, data):\n    os.write(fd, data[:int(sys.argv[2])])\n    os._exit(9)\n"
        "exchange.write_all = half\ndesk.opened(Path(sys.argv[1]), durable=True).publish()\n"
    )
    done = subprocess.run(python(code, desk.root, size), env=os.environ | PLAIN, check=False)
    assert done.returncode == 9
    assert desk.leftovers() != []
    desk.publish()
    assert "status: done" in desk.read(TASK)
    assert desk.is_level()
    assert desk.leftovers() == []
    assert "meanwhile" not in desk.git("log", "--format=%s", "refs/ravi/main")


def test_a_full_disk_leaves_every_file_whole(desk, monkeypatch):
    desk.change(TASK, status="done")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patched:
        patched.setattr(exchange, "write_all", full)
        with pytest.raises(Unavailable, match="No space left"):
            desk.publish()
    assert desk.read(TASK) == START[TASK]
    assert desk.leftovers() == []
    assert desk.publish().written == (TASK,)
    check(desk)
