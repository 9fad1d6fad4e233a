"""Lanes: what a run gets, that its git is its own, and what may come back."""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ravi.errors import Malformed, NotFound
from ravi.store import lanes as lanes_module
from ravi.store.git import find
from ravi.store.lanes import Collected, Lane, Lanes
from ravi.store.objects import EXECUTABLE, Objects, TreeEntry, hash_object

TASK = "tasks/2026/11/20/login-7f3k2a"
AGENT = "agents/alice"
RUN = "login-7f3k2a.1"
ENV = {
    "PATH": os.environ["PATH"],
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(*words: str, cwd: Path | str) -> str:
    return subprocess.run(["git", *words], cwd=cwd, env=ENV, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    for path, text in {
        f"{TASK}/TASK.md": "---\nid: login-7f3k2a\n---\nFix it.\n",
        f"{TASK}/comments/one.md": "hello\n",
        f"{TASK}/outputs/draft.md": "first\n",
        f"{TASK}/outputs/deep/er/note.md": "note\n",
        f"{AGENT}/AGENT.md": "be kind\n",
        f"{AGENT}/run.sh": "#!/bin/sh\n",
        "tasks/2026/11/20/other-x/TASK.md": "not yours\n",
        "notes/a.md": "a\n",
        "notes/b/c.md": "c\n",
        "permissions.yaml": "roles: {}\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / AGENT / "run.sh").chmod(0o755)
    (root / ".gitignore").write_text(".ravi/\n")
    git("init", "-q", "-b", "main", cwd=root)
    git("add", "-A", cwd=root)
    git("commit", "-qm", "begin", cwd=root)
    return root


@pytest.fixture
def objects(workspace: Path) -> Objects:
    return Objects(find(str(workspace)).common_dir)


@pytest.fixture
def lanes(workspace: Path, objects: Objects) -> Lanes:
    return Lanes(find(str(workspace)), objects)


@pytest.fixture
def make(workspace: Path, lanes: Lanes) -> Callable[..., Lane]:
    def make(*more: str, run: str = RUN) -> Lane:
        return lanes.make(run, git("rev-parse", "HEAD", cwd=workspace).strip(), (TASK, AGENT, *more))

    return make


@pytest.fixture
def lane(make: Callable[..., Lane]) -> Lane:
    return make("notes")


def files(root: str | Path) -> set[str]:
    found = {os.path.relpath(os.path.join(here, name), root) for here, _, names in os.walk(root) for name in names}
    return {path for path in found if not path.startswith(".git/")}


def only_outputs(path: str) -> bool:
    return path.startswith(f"{TASK}/outputs/")


def write(lane: Lane, path: str, text: str | bytes) -> Path:
    place = Path(lane.path, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode() if isinstance(text, str) else text)
    return place


def refusals(collected: Collected) -> str:
    return "\n".join(collected.refused)


def test_a_lane_holds_the_task_the_agent_and_what_may_be_read(make: Callable[..., Lane], workspace: Path) -> None:
    lane = make("notes/b")
    assert files(lane.path) == {
        *(f"{TASK}/{name}" for name in ("TASK.md", "comments/one.md", "outputs/draft.md", "outputs/deep/er/note.md")),
        *(f"{AGENT}/{name}" for name in ("AGENT.md", "run.sh")),
        "notes/b/c.md",
    }
    assert Path(lane.path) == workspace / ".ravi/lanes" / RUN
    assert Path(lane.task_dir, "TASK.md").read_text() == (workspace / TASK / "TASK.md").read_text()
    assert os.access(Path(lane.path, AGENT, "run.sh"), os.X_OK)
    assert not Path(lane.path, TASK, "TASK.md").stat().st_mode & stat.S_IXUSR


def test_a_path_may_be_one_file_or_nothing_or_all(lanes: Lanes, workspace: Path) -> None:
    head = git("rev-parse", "HEAD", cwd=workspace).strip()
    one = lanes.make("one.1", head, ("tasks/new", "notes/a.md", "nowhere"))
    assert files(one.path) == {"notes/a.md"}
    assert Path(one.task_dir, "outputs").is_dir()
    everything = lanes.make("all.1", head, (TASK, "notes/b", ""))
    assert files(everything.path) == set(git("ls-files", cwd=workspace).split())
    assert git("rev-parse", "HEAD^{tree}", cwd=everything.path) == git("rev-parse", "HEAD^{tree}", cwd=workspace)
    assert git("status", "--porcelain", cwd=everything.path) == ""


def test_the_lanes_git_is_whole_and_clean(lane: Lane) -> None:
    assert git("status", "--porcelain", cwd=lane.path) == ""
    assert git("branch", "--show-current", cwd=lane.path) == "lane\n"
    assert git("rev-list", "--count", "HEAD", cwd=lane.path) == "1\n"
    assert git("fsck", "--strict", "--no-dangling", cwd=lane.path) == ""
    assert git("diff", "HEAD", cwd=lane.path) == ""


def test_a_commit_in_the_lane_never_touches_the_workspace(lane: Lane, lanes: Lanes, workspace: Path) -> None:
    def state() -> tuple[str, str, set[str]]:
        return (
            git("for-each-ref", cwd=workspace),
            git("status", "--porcelain", cwd=workspace),
            files(workspace / ".git/objects"),
        )

    before = state()
    write(lane, f"{TASK}/outputs/report.md", "done\n")
    git("add", "-A", cwd=lane.task_dir)
    anonymous = {k: v for k, v in ENV.items() if not k.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))}
    subprocess.run(["git", "commit", "-qm", "work"], cwd=lane.task_dir, env=anonymous, check=True)
    git("gc", "-q", cwd=lane.path)
    assert git("log", "--format=%s", cwd=lane.path).splitlines()[0] == "work"
    assert state() == before
    assert lanes.collect(lane, only_outputs).changes == {f"{TASK}/outputs/report.md": b"done\n"}


def test_links_and_submodules_stay_behind(workspace: Path, make: Callable[..., Lane], lanes: Lanes) -> None:
    (workspace / TASK / "outputs/link").symlink_to("/etc/passwd")
    git("add", "-A", cwd=workspace)
    head = git("rev-parse", "HEAD", cwd=workspace).strip()
    git("update-index", "--add", "--cacheinfo", f"160000,{head},{AGENT}/module", cwd=workspace)
    git("commit", "-qm", "more", cwd=workspace)
    lane = make()
    assert not os.path.lexists(os.path.join(lane.task_dir, "outputs/link"))
    assert git("status", "--porcelain", cwd=lane.path) == ""
    assert lanes.collect(lane, only_outputs) == Collected({}, ())


def test_odd_names_and_odd_places_are_exported(tmp_path: Path) -> None:
    root = tmp_path / 'a "quoted"\nplace'
    odd = ["tasks/x/grüße.md", "tasks/x/-dash", "tasks/x/sp ace", "tasks/x/new\nline", "tasks/x.y/z", "tasks/x-y/z"]
    for path in odd:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    git("init", "-q", cwd=root)
    git("add", "-A", cwd=root)
    git("commit", "-qm", "begin", cwd=root)
    lanes = Lanes(find(str(root)), Objects(find(str(root)).common_dir))
    lane = lanes.make("x.1", git("rev-parse", "HEAD", cwd=root).strip(), ("tasks/x", "tasks/x.y", "tasks/x-y"))
    assert files(lane.path) == set(odd)
    assert git("status", "--porcelain", cwd=lane.path) == ""
    assert git("fsck", "--strict", "--no-dangling", cwd=lane.path) == ""
    assert git("rev-parse", "HEAD^{tree}", cwd=lane.path) == git("rev-parse", "HEAD^{tree}", cwd=root)


def test_a_lane_left_behind_is_replaced(make: Callable[..., Lane]) -> None:
    write(make(), f"{TASK}/outputs/stale", "old")
    assert not Path(make().task_dir, "outputs/stale").exists()


@pytest.mark.parametrize("run", ["", "..", "../x", "a/b", ".hidden", "a\n"])
def test_a_lane_lies_in_its_folder_whatever_it_is_called(lanes: Lanes, run: str) -> None:
    with pytest.raises(Malformed, match="cannot be the name of a lane"):
        lanes.remove(run)


def test_an_untouched_lane_brings_nothing(lane: Lane, lanes: Lanes) -> None:
    assert lanes.collect(lane, only_outputs) == Collected({}, ())


def test_outputs_come_back_new_changed_and_deleted(lane: Lane, lanes: Lanes) -> None:
    write(lane, f"{TASK}/outputs/new/report.md", "report\n")
    write(lane, f"{TASK}/outputs/draft.md", "second\n")
    os.unlink(os.path.join(lane.task_dir, "outputs/deep/er/note.md"))
    assert lanes.collect(lane, only_outputs) == Collected(
        {
            f"{TASK}/outputs/new/report.md": b"report\n",
            f"{TASK}/outputs/draft.md": b"second\n",
            f"{TASK}/outputs/deep/er/note.md": None,
        },
        (),
    )


def test_a_change_of_the_same_length_in_the_same_tick_is_seen(make: Callable[..., Lane], lanes: Lanes) -> None:
    for _ in range(20):
        lane = make()
        write(lane, f"{TASK}/outputs/draft.md", "FIRST\n")
        assert lanes.collect(lane, only_outputs).changes == {f"{TASK}/outputs/draft.md": b"FIRST\n"}


def test_a_file_that_was_only_touched_is_no_change(lane: Lane, lanes: Lanes) -> None:
    for path in (f"{TASK}/outputs/draft.md", f"{TASK}/TASK.md"):
        place = Path(lane.path, path)
        place.write_bytes(place.read_bytes())
    assert lanes.collect(lane, only_outputs) == Collected({}, ())


def test_the_executable_bit_comes_back(lane: Lane, lanes: Lanes, objects: Objects, workspace: Path) -> None:
    write(lane, f"{TASK}/outputs/tool", "#!/bin/sh\n").chmod(0o755)
    Path(lane.task_dir, "outputs/draft.md").chmod(0o755)
    changes = lanes.collect(lane, only_outputs).changes
    assert changes == {
        f"{TASK}/outputs/tool": TreeEntry(EXECUTABLE, hash_object("blob", b"#!/bin/sh\n")),
        f"{TASK}/outputs/draft.md": TreeEntry(EXECUTABLE, hash_object("blob", b"first\n")),
    }
    head = git("rev-parse", "HEAD^{tree}", cwd=workspace).strip()
    tree = objects.apply(head, changes)
    objects.flush()
    assert f"100755 blob {hash_object('blob', b'first' + bytes([10]))}" in git("ls-tree", "-r", tree, cwd=workspace)


def test_a_large_file_is_handed_on_as_an_object(lane: Lane, lanes: Lanes, objects: Objects) -> None:
    data = b"x" * 3_000_000
    write(lane, f"{TASK}/outputs/large", data)
    change = lanes.collect(lane, only_outputs).changes[f"{TASK}/outputs/large"]
    assert isinstance(change, TreeEntry)
    assert objects.blob(change.oid) == data


def test_granted_paths_come_back_and_others_do_not(lane: Lane, lanes: Lanes) -> None:
    write(lane, "notes/a.md", "changed\n")
    os.unlink(os.path.join(lane.path, "notes/b/c.md"))
    write(lane, "elsewhere.txt", "x")
    write(lane, f"{TASK}/scratch.txt", "x")
    for n in range(3):
        write(lane, f"{TASK}/node_modules/left/{n}.js", "x")
    collected = lanes.collect(lane, lambda path: path == "notes/a.md")
    assert collected.changes == {"notes/a.md": b"changed\n"}
    reason = "only outputs/ and what `permissions.write` grants come back"
    assert collected.refused == (
        f"elsewhere.txt: {reason}",
        f"notes/b/c.md: it was deleted, and stays: {reason}",
        f"{TASK}/node_modules/: 3 files: {reason}",
        f"{TASK}/scratch.txt: {reason}",
    )


@pytest.mark.parametrize(
    "path",
    [
        f"{TASK}/TASK.md",
        f"{TASK}/task.md",
        f"{TASK}/comments/two.md",
        f"{TASK}/runs/1/RUN.md",
        f"{TASK}/.git/config",
        f"{TASK}/.gitattributes",
        f"{TASK}/outputs/.gitattributes",
        f"{TASK}/outputs/repo/.git/config",
        f"{TASK}/outputs/.GitModules",
        f"{TASK}/outputs/git~1",
        ".gitmodules",
        "tasks/TASK.md",
        "tasks/2026/11/20/other-x/TASK.md",
        "tasks/2026/11/20/other-x/comments/x.md",
        f"{AGENT}/AGENT.md",
        f"{AGENT}/MEMORY.md",
        "Agents/bob/AGENT.md",
        "permissions.yaml",
        "routes.yaml",
        "ravi.yaml",
        ".ravi/lanes/x",
    ],
)
def test_what_is_protected_never_comes_back_whatever_is_granted(lane: Lane, lanes: Lanes, path: str) -> None:
    write(lane, path, "mine now\n")
    write(lane, f"{TASK}/outputs/fine.md", "fine\n")
    collected = lanes.collect(lane, lambda path: True)
    assert collected.changes == {f"{TASK}/outputs/fine.md": b"fine\n"}
    assert len(collected.refused) == 1


def test_protected_files_that_are_deleted_stay(lane: Lane, lanes: Lanes) -> None:
    for path in (f"{TASK}/TASK.md", f"{AGENT}/AGENT.md"):
        os.unlink(os.path.join(lane.path, path))
    collected = lanes.collect(lane, lambda path: True)
    assert collected.changes == {}
    assert collected.refused == (
        f"{AGENT}/AGENT.md: it was deleted, and stays: agents/ is changed by people only",
        f"{TASK}/TASK.md: it was deleted, and stays: TASK.md, comments/ and runs/ are changed by asking `ravi`",
    )


def test_a_task_named_in_outputs_is_only_a_file(lane: Lane, lanes: Lanes) -> None:
    write(lane, f"{TASK}/outputs/tasks/TASK.md", "x")
    write(lane, "tasks/2026/11/20/other-x/outputs/runs/x.md", "x")
    assert set(lanes.collect(lane, lambda path: True).changes) == {
        f"{TASK}/outputs/tasks/TASK.md",
        "tasks/2026/11/20/other-x/outputs/runs/x.md",
    }


def test_links_pipes_sockets_and_devices_are_refused_and_never_followed(
    lane: Lane, lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Path(lane.task_dir, "outputs")
    (outputs / "link").symlink_to("/etc/passwd")
    (outputs / "folder").symlink_to("/etc")
    (outputs / "broken").symlink_to("nowhere")
    (outputs / "draft.md").unlink()
    (outputs / "draft.md").symlink_to("deep/er/note.md")
    os.mkfifo(outputs / "pipe")
    monkeypatch.chdir(outputs)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        collected = lanes.collect(lane, only_outputs)
    assert collected.changes == {}
    assert [line.rpartition("/")[2] for line in collected.refused] == [
        "broken: a symbolic link; only plain files come back",
        "draft.md: a symbolic link; only plain files come back",
        "folder: a symbolic link; only plain files come back",
        "link: a symbolic link; only plain files come back",
        "pipe: a pipe; only plain files come back",
        "socket: a socket; only plain files come back",
    ]


def test_outputs_that_became_a_link_delete_nothing(lane: Lane, lanes: Lanes, tmp_path: Path) -> None:
    outputs = Path(lane.task_dir, "outputs")
    outputs.rename(tmp_path / "moved")
    (tmp_path / "moved/secret").write_text("secret")
    outputs.symlink_to(tmp_path / "moved")
    assert lanes.collect(lane, only_outputs) == Collected(
        {}, (f"{TASK}/outputs: a symbolic link; only plain files come back",)
    )


def test_a_lane_that_was_replaced_brings_nothing(lane: Lane, lanes: Lanes, tmp_path: Path) -> None:
    Path(lane.path).rename(tmp_path / "away")
    with pytest.raises(NotFound, match="deleted or replaced"):
        lanes.collect(lane, only_outputs)
    Path(lane.path).symlink_to(tmp_path / "away")
    with pytest.raises(NotFound):
        lanes.collect(lane, only_outputs)
    Path(lane.path).unlink()
    write(lane, f"{TASK}/outputs/x", "x")
    with pytest.raises(NotFound):
        lanes.collect(lane, only_outputs)


def test_a_lane_that_goes_while_it_is_read_brings_nothing(lane: Lane, lanes: Lanes, tmp_path: Path) -> None:
    def gone(path: str) -> bool:
        if os.path.exists(lane.path):
            os.rename(lane.path, tmp_path / "away")
        return True

    write(lane, f"{TASK}/elsewhere", "x")
    with pytest.raises(NotFound):
        lanes.collect(lane, gone)


def test_a_file_may_take_the_place_of_a_folder_and_the_other_way_round(
    lane: Lane, lanes: Lanes, objects: Objects, workspace: Path
) -> None:
    outputs = Path(lane.task_dir, "outputs")
    (outputs / "draft.md").unlink()
    write(lane, f"{TASK}/outputs/draft.md/part", "part")
    (outputs / "deep/er/note.md").unlink()
    (outputs / "deep/er").rmdir()
    (outputs / "deep/er").write_text("flat")
    changes = lanes.collect(lane, only_outputs).changes
    assert changes == {
        f"{TASK}/outputs/draft.md": None,
        f"{TASK}/outputs/draft.md/part": b"part",
        f"{TASK}/outputs/deep/er/note.md": None,
        f"{TASK}/outputs/deep/er": b"flat",
    }
    tree = objects.apply(git("rev-parse", "HEAD^{tree}", cwd=workspace).strip(), changes)
    assert objects.read(tree, f"{TASK}/outputs/draft.md/part") == b"part"
    assert objects.read(tree, f"{TASK}/outputs/deep/er") == b"flat"


def test_bounds_are_said_in_words(lane: Lane, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "FILE_LIMIT", 1000)
    monkeypatch.setattr(lanes_module, "TOTAL_LIMIT", 2500)
    monkeypatch.setattr(lanes_module, "COUNT_LIMIT", 4)
    for n in range(3):
        write(lane, f"{TASK}/outputs/{n}", "x" * 1000)
    write(lane, f"{TASK}/outputs/3", "x" * 1001)
    for n in range(4, 8):
        write(lane, f"{TASK}/outputs/{n}", "x")
    with open(Path(lane.task_dir, "outputs/sparse"), "wb") as file:
        file.truncate(1 << 40)
    collected = lanes.collect(lane, only_outputs)
    assert [path.rpartition("/")[2] for path in collected.changes] == ["0", "1", "4", "5"]
    assert [line.rpartition("/")[2] for line in collected.refused] == [
        "2: with it there would be more than 0 MB in all",
        "3: it has 0.0 MB; a file may have 0 MB",
        "6: more than 4 files changed",
        "7: more than 4 files changed",
        "sparse: it has 1,099,511.6 MB; a file may have 0 MB",
    ]


def test_many_names_and_many_refusals_are_bounded(lane: Lane, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(100):
        write(lane, f"notes/{n}.md", "x")
    collected = lanes.collect(lane, only_outputs)
    assert (len(collected.refused), collected.refused[-1]) == (51, "and 50 more")
    monkeypatch.setattr(lanes_module, "LOOK_LIMIT", 50)
    os.unlink(os.path.join(lane.task_dir, "outputs/draft.md"))
    collected = lanes.collect(lane, only_outputs)
    assert collected.changes == {}
    assert "more than 50 files; nothing from here on was looked at" in refusals(collected)


def test_folders_nested_without_end_are_refused_and_removed(lane: Lane, lanes: Lanes) -> None:
    fd = os.open(os.path.join(lane.task_dir, "outputs"), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    collected = lanes.collect(lane, only_outputs)
    assert collected.changes == {}
    assert "folders are nested too deep" in refusals(collected)
    assert lanes.remove(lane)
    assert not os.path.lexists(lane.path)


def test_names_that_are_no_text_are_refused_and_shown_safely(lane: Lane, lanes: Lanes) -> None:
    outputs = os.fsencode(os.path.join(lane.task_dir, "outputs"))
    for name in (b"\xff", b"\x1b]0;title\x07"):
        with open(os.path.join(outputs, name), "wb") as file:
            file.write(b"x")
    os.mkdir(os.path.join(outputs, b"\xfe"))
    collected = lanes.collect(lane, only_outputs)
    assert list(collected.changes) == [f"{TASK}/outputs/\x1b]0;title\x07"]
    assert collected.refused == (
        f"{TASK}/outputs/\ufffd/: its name is not UTF-8",
        f"{TASK}/outputs/\ufffd: its name is not UTF-8",
    )


def test_a_lane_is_removed_whatever_its_rights(lane: Lane, lanes: Lanes) -> None:
    outside = Path(lane.path).parents[1] / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    closed = Path(lane.task_dir, "outputs/closed")
    closed.mkdir()
    (closed / "file").write_text("x")
    (closed / "link").symlink_to(outside)
    for place, mode in ((closed / "file", 0), (closed, 0o500), (closed.parent, 0), (Path(lane.path), 0o500)):
        place.chmod(mode)
    assert lanes.leftover() == (RUN,)
    assert lanes.remove(lane)
    assert lanes.leftover() == ()
    assert (outside / "kept").read_text() == "kept"
    assert lanes.remove(lane)


def test_without_a_folder_of_lanes_there_is_none_left(workspace: Path, lanes: Lanes) -> None:
    assert lanes.leftover() == ()
    assert lanes.remove(RUN)


def test_fifty_lanes_do_not_disturb_each_other(make: Callable[..., Lane], lanes: Lanes, workspace: Path) -> None:
    many = [make(run=f"task-{n}.1") for n in range(50)]
    for n, lane in enumerate(many):
        write(lane, f"{TASK}/outputs/draft.md", f"by {n}\n")
    git("commit", "-qam", "work", cwd=many[7].path)
    for n, lane in enumerate(many):
        assert lanes.collect(lane, only_outputs).changes == {f"{TASK}/outputs/draft.md": f"by {n}\n".encode()}
    assert git("status", "--porcelain", cwd=workspace) == ""


@pytest.mark.fault
def test_a_lane_is_made_whole_or_not_at_all(
    make: Callable[..., Lane], lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_new, left = lanes_module._write_new, 0

    def fail_in_time(path: str, data: bytes, mode: int = 0o666) -> os.stat_result:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return write_new(path, data, mode)

    monkeypatch.setattr(lanes_module, "_write_new", fail_in_time)
    for nth in range(100):
        left = nth
        try:
            lane = make()
        except OSError:
            assert lanes.leftover() == ()
        else:
            break
    assert nth > 10
    assert git("status", "--porcelain", cwd=lane.path) == ""
