"""What people save becomes commits of theirs: all of it, once, and nothing else."""

import os
import sys
import time
from pathlib import Path

import desk as desks
import pytest
from desk import NOTE, OTHER, START, TASK, Desk
from workshop import shell

from ravi.core import document
from ravi.core.trailers import parse
from ravi.store import gitindex
from ravi.store.refs import MAIN
from ravi.store.scan import Found, Scan


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desks.made(tmp_path / "w")


def front(desk: Desk, path: str) -> dict[str, object]:
    return dict(document.parse(desk.recorded(path).encode()).front)


def subjects(desk: Desk) -> list[str]:
    """What happened on the main line since the start, oldest first."""
    return desk.git("log", "--first-parent", "--reverse", "--format=%s", "HEAD..refs/ravi/main").splitlines()


def found(desk: Desk, paths: list[str] | None = None) -> dict[str, Found]:
    return {one.path: one for one in desk.ingest.look(paths)}


def old(path: Path, seconds: float = 100.0) -> None:
    """A file that was saved some time ago."""
    os.utime(path, (time.time() - seconds,) * 2)


# -- one edit


def test_an_edit_becomes_a_commit_of_the_person(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    done = desk.take()
    assert len(done.commits) == 1
    assert desk.git("log", "-1", "--format=%an <%ae> %cn", done.commits[0]) == "Ada <ada@example.org> ravi"
    message = parse(desk.git("log", "-1", "--format=%B", done.commits[0]))
    assert message.subject == "task a: edited by Ada"
    assert message.trailers["Ravi-Task"] == "a"
    assert len(message.trailers["Ravi-Event"]) == 16
    assert desk.recorded(TASK) == desk.read(TASK)
    desk.publish()
    assert desk.is_level()
    assert desk.status() == ""
    assert desk.take().commits == ()


@pytest.mark.parametrize(
    "text", ["x\r\ny\r\n", "\ufeff---\nid: a\n---\nx", "---\nid:    'a'   # who\n---\n", "---\nid: a\n---"]
)
def test_every_byte_is_taken_as_it_lies(desk, text):
    desk.save("agents/ann/AGENT.md", text)
    desk.take()
    assert desk.recorded("agents/ann/AGENT.md") == text
    desk.publish()
    assert desk.read("agents/ann/AGENT.md") == text


def test_each_task_has_its_own_commit_and_the_rest_comes_first(desk):
    desk.save(TASK, desk.read(TASK) + "More.\n")
    desk.save(OTHER, desk.read(OTHER) + "More.\n")
    desk.save("tasks/2026/11/20/b/comments/1.md", "Hm.\n")
    desk.save("tasks/2026/11/20/a/comments/1.md", "Yes.\n")
    desk.save("agents/bob/AGENT.md", "---\nrunner: command\n---\n")
    desk.save("ravi.yaml", "name: other\n")
    desk.take()
    rest, *tasks = subjects(desk)
    assert rest == "workspace: edited by Ada"
    assert sorted(tasks) == ["task a: edited by Ada", "task b: edited by Ada"]
    desk.save("tasks/2026/11/20/b/comments/2.md", "No.\n")
    desk.take()
    assert subjects(desk)[-1] == "task b: commented by Ada"
    assert desk.settle().held == {}
    assert desk.is_level()


def test_a_great_many_tasks_changed_at_once_are_one_commit(desk):
    for n in range(70):
        desk.save(f"tasks/{n}/TASK.md", f"---\nid: t{n}\n---\n")
    assert len(desk.take().commits) == 1
    assert subjects(desk) == ["workspace: 70 tasks edited by Ada"]


def test_only_known_places_are_taken(desk):
    desk.save(NOTE, "changed\n")
    desk.save("src/main.py", "x\n")
    desk.save("tasks/notes.txt", "by the way\n")
    assert set(found(desk)) == {"tasks/notes.txt"}
    assert set(found(desk, [NOTE, "src", "tasks", ""])) == {"tasks/notes.txt"}


def test_the_x_bit_is_an_edit(desk):
    (desk.root / TASK).chmod(0o755)
    desk.take()
    assert desk.git("ls-tree", "refs/ravi/main", TASK).startswith("100755")
    desk.git("config", "core.fileMode", "false")
    desk = desks.opened(desk.root)
    (desk.root / TASK).chmod(0o644)
    assert found(desk) == {}


def test_a_file_is_compared_without_reading_index_or_tree(desk, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(gitindex.GitIndex, "entries", refuse)
    monkeypatch.setattr(gitindex.GitIndex, "read", refuse)
    monkeypatch.setattr(desk.store.objects, "walk", refuse)
    assert found(desk, [TASK, "tasks/none/TASK.md", "outside.txt"]) == {}


# -- quiet


def test_a_file_is_taken_when_it_has_lain_still(desk):
    desk.save(TASK, desk.read(TASK) + "1")
    look, record = desk.ingest.look, desk.ingest.record
    done = record(look([TASK], now=100.0), "Ada", "a@b", now=100.0, quiet=1.0)
    assert (done.commits, done.waiting, done.again) == ((), (TASK,), 101.0)
    desk.save(TASK, desk.read(TASK) + "2")
    done = record(look([TASK], now=100.9), "Ada", "a@b", now=100.9, quiet=1.0)
    assert done.again == pytest.approx(101.9)
    assert record(look([TASK], now=101.5), "Ada", "a@b", now=101.5, quiet=1.0).commits == ()
    assert len(record(look([TASK], now=102.0), "Ada", "a@b", now=102.0, quiet=1.0).commits) == 1


def test_what_changed_between_looking_and_recording_waits(desk):
    desk.save(TASK, desk.read(TASK) + "1")
    before = desk.ingest.look([TASK], now=100.0)
    desk.save(TASK, desk.read(TASK) + "2")
    done = desk.ingest.record(before, "Ada", "a@b", now=105.0, quiet=1.0)
    assert (done.commits, done.waiting, done.again) == ((), (TASK,), 106.0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell who writes")
def test_a_file_that_is_being_written_is_waited_for_a_while(desk):
    with open(desk.root / TASK, "a") as editor:
        editor.write("Half a sen")
        editor.flush()
        found = desk.ingest.look([TASK], now=100.0)
        assert desk.ingest.record(found, "Ada", "a@b", now=100.0).waiting == (TASK,)
        assert desk.ingest.record(found, "Ada", "a@b", now=105.0, quiet=1.0).waiting == (TASK,)
        editor.write("tence.\n")
    desk.ingest.record(desk.ingest.look([TASK], now=106.0), "Ada", "a@b", now=106.0)
    assert desk.recorded(TASK).endswith("Half a sentence.\n")
    with open(desk.root / TASK, "a") as editor:  # a log, say, that somebody keeps open for ever
        editor.write("Line.\n")
        editor.flush()
        desk.ingest.look([TASK], now=200.0)
        assert len(desk.ingest.record(desk.ingest.look([TASK], now=211.0), "Ada", "a@b", now=211.0).commits) == 1


def test_who_looks_once_goes_by_the_clock_on_the_wall(desk):
    desk.clock.now = desk.clock.now.fromtimestamp(time.time() + 10, desk.clock.now.tzinfo)
    desk.save(TASK, desk.read(TASK) + "1")
    assert len(desk.take([TASK], quiet=1.0).commits) == 1
    desk.clock.now = desk.clock.now.fromtimestamp(time.time(), desk.clock.now.tzinfo)
    desk.save(TASK, desk.read(TASK) + "2")
    assert desk.take([TASK], quiet=60.0).waiting == (TASK,)


def test_a_missing_file_is_waited_for_even_without_quiet(desk):
    """Some editors save by moving the old file away first."""
    (desk.root / TASK).unlink()
    done = desk.ingest.record(desk.ingest.look([TASK], now=5.0), "Ada", "a@b", now=5.0)
    assert done.waiting == (TASK,)
    desk.ingest.record(desk.ingest.look([TASK], now=6.1), "Ada", "a@b", now=6.1)
    assert subjects(desk) == ["task a: deleted by Ada"]
    desk.publish()
    assert desk.is_level()
    assert desk.status() == ""


def test_a_file_that_is_missing_now_and_then_is_not_missing_all_the_time(desk):
    text = desk.read(TASK)
    for now in (1.0, 3.0, 5.0):
        (desk.root / TASK).unlink()
        done = desk.ingest.record(desk.ingest.look([TASK], now=now), "Ada", "a@b", now=now)
        assert done.waiting == (TASK,)
        desk.save(TASK, text)
        assert desk.ingest.look(["tasks"], now=now + 1) == ()


def test_a_folder_tells_how_long_a_file_is_missing(desk):
    desk.clock.now = desk.clock.now.fromtimestamp(time.time(), desk.clock.now.tzinfo)
    (desk.root / TASK).unlink()
    desk.ingest.look([TASK], now=100.0)
    for now, commits in ((103.0, 0), (111.0, 1)):  # by the wall it went just now; at last the wall is not believed
        done = desk.ingest.record(desk.ingest.look([TASK], now=now), "Ada", "a@b", now=now)
        assert len(done.commits) == commits


# -- ids


def test_a_new_task_is_given_an_id_in_its_file(desk):
    desk.save("tasks/buy/TASK.md", "---\r\ntitle: Buy milk!  # soon\r\n---\r\nTwo bottles.\r\n")
    desk.take()
    desk.publish()
    assert desk.read("tasks/buy/TASK.md") == (
        "---\r\ntitle: Buy milk!  # soon\r\nid: buy-milk-000000\r\n---\r\nTwo bottles.\r\n"
    )
    assert subjects(desk) == []
    assert desk.git("log", "-1", "--format=%s") == "task buy-milk-000000: created by Ada"
    assert desk.status() == ""


@pytest.mark.parametrize(
    ("text", "id"),
    [("# Fix the log-in\n\nNow.\n", "fix-the-log-in-000000"), ("", "x-000000"), ("Just text.\n", "x-000000")],
)
def test_a_task_is_named_after_its_heading_or_its_folder(desk, text, id):
    desk.save("tasks/x/TASK.md", text)
    desk.take()
    assert front(desk, "tasks/x/TASK.md")["id"] == id


def test_a_copy_gets_an_id_of_its_own_and_is_a_draft(desk):
    desk.save("tasks/copy/TASK.md", desk.read(TASK))
    desk.settle()
    assert front(desk, TASK)["id"] == "a"
    assert front(desk, "tasks/copy/TASK.md") | {"updated": ""} == {
        "id": "first-000000", "title": "First", "status": "draft", "updated": "",
    }  # fmt: skip
    assert desk.read("tasks/copy/TASK.md") == desk.recorded("tasks/copy/TASK.md")


def test_of_two_new_files_with_one_id_the_first_keeps_it(desk):
    desk.save("tasks/x/TASK.md", "---\nid: new\n---\n")
    desk.save("tasks/y/TASK.md", "---\nid: new\n---\n")
    desk.take()
    assert front(desk, "tasks/x/TASK.md") == {"id": "new"}
    assert front(desk, "tasks/y/TASK.md") == {"id": "y-000000", "status": "draft"}


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_moved_task_stays_the_same_task(desk, all_of_it):
    desk.save("tasks/2026/11/20/a/comments/1.md", "Hm.\n")
    desk.settle()
    desk.change(TASK, status="done")  # meanwhile
    (desk.root / "tasks/2026/11/20/a").rename(desk.root / "tasks/moved")
    desk.ingest.look(None if all_of_it else ["tasks/moved"], now=1000.0)
    paths = None if all_of_it else ["tasks/moved"]
    done = desk.ingest.record(desk.ingest.look(paths, now=1002.0), "Ada", "a@b", now=1002.0, quiet=1.0)
    if not all_of_it and done.waiting:
        done = desk.ingest.record(desk.ingest.look(paths, now=1005.0), "Ada", "a@b", now=1005.0, quiet=1.0)
    assert front(desk, "tasks/moved/TASK.md")["id"] == "a"
    assert front(desk, "tasks/moved/TASK.md")["status"] == "done"
    assert "task a: moved by Ada" in subjects(desk)
    desk.settle()
    desk.settle()
    assert not desk.has(TASK)
    assert desk.is_level()
    assert desk.status() == ""
    assert desk.read("tasks/moved/comments/1.md") == "Hm.\n"


def test_all_that_lies_in_the_folder_of_a_task_moves_in_one_commit(desk):
    for path in ("comments/1.md", "runs/1/notes.txt", "outputs/o"):
        desk.save(f"tasks/2026/11/20/a/{path}", "x\n")
    desk.settle()
    (desk.root / "tasks/2026/11/20/a").rename(desk.root / "tasks/moved")
    (found,) = [one for one in desk.ingest.look(now=1000.0) if one.path == "tasks/moved/TASK.md"]
    desk.save("tasks/moved/outputs/o", "y\n")  # it does not lie still yet
    desk.ingest.look(now=1000.0)
    done = desk.ingest.record([found], "Ada", "a@b", now=1000.5, quiet=1.0)
    assert done.commits == ()
    done = desk.ingest.record(desk.ingest.look(done.waiting, now=1003.0), "Ada", "a@b", now=1003.0, quiet=1.0)
    assert len(done.commits) == 1
    assert desk.git("ls-tree", "-r", "--name-only", "refs/ravi/main", "tasks/2026/11/20/a") == ""
    there = desk.git("ls-tree", "-r", "--name-only", "refs/ravi/main", "tasks/moved/").split()
    assert [path.removeprefix("tasks/moved/") for path in there] == [
        "TASK.md", "comments/1.md", "outputs/o", "runs/1/notes.txt",
    ]  # fmt: skip


def test_an_id_that_was_removed_is_put_back_and_one_that_was_changed_is_told(desk):
    desk.save(TASK, desk.read(TASK).replace("id: a\n", ""))
    desk.settle()
    assert "\nid: a\n" in desk.read(TASK)
    desk.save(TASK, desk.read(TASK).replace("id: a\n", "id: z\n"))
    told = desk.take().problems
    assert [(p.path, p.key) for p in told] == [(TASK, "id")]
    assert "id: z" in desk.recorded(TASK)


def test_a_task_that_was_copied_over_another_does_not_take_its_name(desk):
    desk.save(OTHER, desk.read(TASK))
    done = desk.take()
    assert "belongs to" in done.problems[0].message
    assert front(desk, OTHER)["id"] == "b"
    assert front(desk, OTHER)["title"] == "First"


@pytest.mark.parametrize("path", ["tasks/2026/11/20/a/outputs/x/TASK.md", "tasks/2026/11/20/a/runs/1/TASK.md"])
def test_what_a_run_made_is_no_task(desk, path):
    desk.save(path, "# Not one\n")
    desk.take()
    assert desk.recorded(path) == "# Not one\n"


# -- together with ravi


def test_an_edit_beside_what_ravi_recorded_is_merged_and_kept_to_the_letter(desk):
    mine = desk.read(TASK).replace("Do it.", "Do it well.")
    desk.save(TASK, mine)
    desk.change(TASK, status="done")
    assert desk.take().problems == ()
    assert desk.recorded(TASK) == mine.replace("open", "done")
    assert desk.kept(mine)
    desk.publish()
    assert desk.read(TASK) == mine.replace("open", "done")
    assert desk.is_level()


def test_in_a_true_conflict_the_person_wins_and_it_is_told(desk):
    desk.save(TASK, desk.read(TASK).replace("status: open", "status: cancelled"))
    desk.change(TASK, status="done", progress="all")
    (problem,) = desk.take().problems
    assert problem.path == TASK
    assert problem.message.startswith("status: ")
    assert front(desk, TASK)["status"] == "cancelled"
    assert front(desk, TASK)["progress"] == "all"
    assert "+status: done" in desk.history()


def test_a_save_during_publishing_is_taken_from_where_it_began(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Do it well."))
    desk.take()  # lies out, and is recorded
    desk.change(TASK, status="done")  # not published yet
    desk.save(TASK, desk.read(TASK).replace("Then rest.", "Then sleep."))
    desk.settle()
    text = desk.read(TASK)
    assert ("Do it well." in text, "Then sleep." in text, "status: done" in text) == (True, True, True)
    assert desk.take().problems == ()


def test_a_stale_editor_undoes_nothing(desk):
    buffer = desk.read(TASK)
    desk.change(TASK, status="done", updated="2026-11-20T11:00:00.000Z")
    desk.publish()
    desk.change(TASK, summary="fine", updated="2026-11-20T12:00:00.000Z")
    desk.publish()
    desk.save(TASK, buffer.replace("Do it.", "Do it well."))
    assert desk.settle().held == {}
    text = desk.read(TASK)
    assert "Do it well." in text
    assert {"status": "done", "summary": "fine", "updated": "2026-11-20T12:00:00.000Z"}.items() <= front(
        desk, TASK
    ).items()
    desk.save(TASK, desk.read(TASK).replace("2026-11-20T12:00:00.000Z", "yesterday"))
    desk.settle()
    assert front(desk, TASK)["updated"] == "yesterday"


def test_a_file_that_ravi_deleted_and_somebody_edited_stays(desk):
    desk.write(OTHER, None)
    desk.save(OTHER, desk.read(OTHER) + "But.\n")
    (problem,) = desk.take().problems
    assert "deleted by ravi" in problem.message
    desk.publish()
    assert desk.read(OTHER).endswith("But.\n")
    assert desk.is_level()


def other_branch(desk: Desk) -> None:
    desk.git("switch", "-qc", "other")
    desk.save(TASK, "---\nid: a\n---\nOf the other branch.\n")
    desk.git("commit", "-qam", "other")
    desk.git("switch", "-q", "main")
    desk.publish()


def test_files_that_git_has_written_before_it_moves_head_are_not_taken(desk):
    other_branch(desk)
    desk.git("read-tree", "-m", "-u", "HEAD", "other")  # as far as `git switch` has come
    done = desk.take()
    assert done.commits == ()
    desk.git("symbolic-ref", "HEAD", "refs/heads/other")
    assert "other is checked out" in desk.take().paused
    desk.git("switch", "-q", "main")
    assert desk.settle().paused == ""
    assert "Do it." in desk.recorded(TASK)


def test_files_of_a_branch_that_is_left_while_they_are_read_are_not_taken(desk, monkeypatch):
    other_branch(desk)
    desk.save(TASK, "---\nid: a\n---\nOf the other branch.\n")
    looked = desk.ingest.look(now=1.0)
    read = Scan.at

    def at(scan: Scan, path: str, *, with_data: bool = False) -> Found | None:
        found = read(scan, path, with_data=with_data)
        desk.git("switch", "-q", "--discard-changes", "other")
        return found

    monkeypatch.setattr(Scan, "at", at)
    done = desk.ingest.record(looked, "Ada", "a@b", now=9.0)
    assert done.commits == ()
    assert done.waiting == (TASK,)


def test_a_repository_without_a_commit_is_begun_by_the_first_save(tmp_path):
    root = tmp_path / "w"
    shell("init", "-q", "-b", "main", str(root), cwd=tmp_path)
    desk = desks.opened(root)
    desk.git("config", "user.name", "Ada")
    desk.save("tasks/x/TASK.md", "# Begin\n")
    assert len(desk.take().commits) == 1
    desk.publish()
    assert desk.is_level()
    assert desk.status() == ""


# -- what is not taken


def test_staged_files_are_the_persons_to_commit(desk):
    desk.save(TASK, desk.read(TASK) + "More.\n")
    desk.save("tasks/new/TASK.md", "# New\n")
    desk.git("add", TASK, "tasks/new/TASK.md")
    desk.save(OTHER, desk.read(OTHER) + "More.\n")
    done = desk.take()
    assert {problem.path for problem in done.problems} == {TASK, "tasks/new/TASK.md"}
    assert subjects(desk) == ["task b: edited by Ada"]
    desk.publish()
    assert desk.status() == f"M  {TASK}\nA  tasks/new/TASK.md"


@pytest.mark.parametrize(
    "name", [".TASK.md.swp", "TASK.md~", ".#TASK.md", "4913", "x.tmp", ".DS_Store", "TASK.md.problem", ".ravi-1"]
)
def test_what_editors_leave_behind_is_passed_over(desk, name):
    desk.save(f"tasks/2026/11/20/a/{name}", "rubbish\n")
    assert found(desk) == {}
    assert found(desk, ["tasks", f"tasks/2026/11/20/a/{name}"]) == {}


def test_ignored_files_are_passed_over_unless_they_were_committed(desk):
    desk.save(".gitignore", "*.log\n")
    desk.save("tasks/old.log", "committed all the same\n")
    desk.git("add", "-f", ".gitignore", "tasks/old.log")
    desk.git("commit", "-qm", "ignore")
    desk.publish()
    desk.save("tasks/new.log", "no\n")
    desk.save("tasks/old.log", "yes\n")
    assert set(found(desk)) == set(found(desk, ["tasks"])) == {"tasks/old.log"}


def test_what_is_no_plain_file_is_told_and_left(desk, tmp_path):
    folder = desk.root / "tasks/odd"
    (folder / "TASK.md").mkdir(parents=True)
    (folder / "TASK.md/inside").write_text("x")
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("/etc/passwd")
    (desk.root / "agents/linked").symlink_to(tmp_path)
    (folder / "huge").write_bytes(b"x" * 5_000_001)
    (folder / os.fsdecode(b"\xff.md")).write_bytes(b"x")
    for paths in (None, ["tasks", "agents"]):
        done = desk.take(paths)
        told = {problem.path: problem.message for problem in done.problems}
        assert "not a regular file" in told.get("tasks/odd/fifo", "is not a regular file")  # git does not list it
        assert "link" in told["tasks/odd/link"]
        assert "link" in told["agents/linked"]
        assert "5000001 bytes" in told["tasks/odd/huge"]
        assert "name" in told[os.fsdecode(b"tasks/odd/\xff.md")]
    assert "tasks/odd/fifo" in told
    assert "should be a file" in told["tasks/odd/TASK.md"]


def test_a_document_that_cannot_be_read_is_recorded_and_told(desk):
    desk.save(TASK, "---\nid: a\nstatus: [open\n---\n")
    (problem,) = desk.take().problems
    assert (problem.path, problem.line) == (TASK, 3)
    assert "[open" in desk.recorded(TASK)
    desk.save("tasks/bad/TASK.md", "---\nid: a\nid: b\n")
    assert [problem.path for problem in desk.take().problems] == ["tasks/bad/TASK.md"]
    assert desk.publish().held == {}
    assert desk.status() == ""


def test_a_conflict_that_git_left_is_the_persons_to_resolve(desk):
    desk.save(TASK, desk.read(TASK).replace("Do it.", "One."))
    desk.git("stash", "-q")
    desk.save(TASK, desk.read(TASK).replace("Do it.", "Two."))
    desk.git("commit", "-qam", "two")
    desk.publish()
    desk.git("stash", "pop", "-q", ok=False)
    assert "<<<<<<<" in desk.read(TASK)
    done = desk.take()
    assert "merge conflict" in done.problems[0].message
    desk.change(OTHER, status="done")
    assert desk.publish().written == (OTHER,)
    desk.save(TASK, desk.read(TASK).split("<<<<<<<")[0] + "Both.\n")
    desk.git("add", TASK)
    desk.git("commit", "-qm", "both")
    desk.git("stash", "drop", "-q")
    desk.settle()
    assert desk.recorded(TASK).endswith("Both.\n")
    assert desk.status() == ""


def test_a_repository_inside_is_left_to_itself(desk):
    desk.save("tasks/inner/notes.md", "x\n")
    shell("init", "-q", str(desk.root / "tasks/inner"), cwd=desk.root)
    done = desk.take()
    assert done.commits == ()
    assert [(p.path, "of its own" in p.message) for p in done.problems] == [("tasks/inner", True)]


def test_files_behind_a_git_filter_are_told_and_left(desk):
    desk.save(".gitattributes", "*.bin filter=lfs\n")
    desk.git("add", ".gitattributes")
    desk.git("commit", "-qm", "filter")
    desk.publish()
    desk.save("tasks/x.bin", "large\n")
    desk.save("tasks/x.txt", "small\n")
    done = desk.take()
    assert [(p.path, "`lfs`" in p.message) for p in done.problems] == [("tasks/x.bin", True)]
    assert desk.recorded("tasks/x.txt") == "small\n"


def test_what_is_not_checked_out_was_not_deleted(desk):
    desk.git("sparse-checkout", "set", "--no-cone", "/*", "!/agents/")
    assert not desk.has("agents")
    assert found(desk) == {}
    desk.change("agents/ann/AGENT.md", model="m")
    desk.change(TASK, status="done")
    desk.publish()
    assert not desk.has("agents")
    assert desk.is_level()
    assert desk.status() == ""


# -- what is too much to be meant


def tasks(desk: Desk, count: int) -> None:
    for n in range(count):
        desk.save(f"tasks/many/{n}/TASK.md", f"---\nid: many{n}\ntitle: {n}\n---\n")
    desk.settle()


def test_a_folder_that_is_away_was_not_deleted(desk):
    (desk.root / "tasks").rename(desk.root / "elsewhere")
    for paths in (None, ["tasks"]):
        desk.ingest.look(paths, now=1.0)
        done = desk.ingest.record(desk.ingest.look(paths, now=9.0), "Ada", "a@b", now=9.0)
        assert done.commits == ()
        assert [problem.message for problem in done.problems] == [
            "2 files are missing; if you mean it, commit it with git"
        ]
    (desk.root / "elsewhere").rename(desk.root / "tasks")
    assert found(desk) == {}


def test_most_of_all_tasks_are_not_deleted_by_accident(desk):
    tasks(desk, 30)
    for n in range(25):
        (desk.root / f"tasks/many/{n}/TASK.md").unlink()
    desk.save(TASK, desk.read(TASK) + "More.\n")
    desk.ingest.look(now=1000.0)
    done = desk.ingest.record(desk.ingest.look(now=1009.0), "Ada", "a@b", now=1009.0, quiet=1.0)
    assert subjects(desk) == ["task a: edited by Ada"]
    assert "25 files are missing" in done.problems[0].message
    desk.publish()
    desk.git("commit", "-qam", "I mean it")
    desk.settle()
    assert not desk.has("tasks/many/3/TASK.md")
    assert desk.is_level()


def test_some_of_all_tasks_may_be_deleted(desk):
    tasks(desk, 60)
    for n in range(25):
        (desk.root / f"tasks/many/{n}/TASK.md").unlink()
    desk.settle()
    assert desk.is_level()
    assert desk.status() == ""
    assert desk.store.refs.read(MAIN)
    assert len(desk.git("ls-files", "tasks/many").splitlines()) == 35


def test_all_tasks_may_be_moved(desk):
    tasks(desk, 30)
    (desk.root / "tasks/many").rename(desk.root / "tasks/archive")
    desk.settle()
    assert desk.is_level()
    assert desk.status() == ""
    for n in range(30):
        assert front(desk, f"tasks/archive/{n}/TASK.md")["id"] == f"many{n}"


def test_every_file_can_be_read_as_it_lies(desk):
    desk.save(TASK, "as it lies\n")
    desk.save("tasks/x~", "rubbish\n")
    (desk.root / "tasks/link").symlink_to("x")
    files = dict(desk.ingest.files())
    assert files[TASK] == b"as it lies\n"
    assert set(files) == {*START, "tasks/link"} - {NOTE}
    assert "link" in str(files["tasks/link"])
