"""The doorbell with the real kernel: what rings, what does not, and what is said when there is no room."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ravi.bus.doorbell import OVERFLOW, Doorbell

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")
BOTH = [pytest.param(True, marks=linux, id="inotify"), pytest.param(False, id="tree")]


class Heard:
    """Everything that rang so far, and a way to wait for more."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.overflows = 0
        self.changed = threading.Condition()

    def __call__(self, paths: frozenset[str]) -> None:
        with self.changed:
            self.overflows += paths == OVERFLOW
            self.paths |= paths
            self.changed.notify_all()

    def wait(self, *paths: str) -> bool:
        return self.until(lambda: self.paths.issuperset(paths))

    def until(self, is_so: Callable[[], bool]) -> bool:
        with self.changed:
            return self.changed.wait_for(is_so, timeout=10)

    def clear(self) -> None:
        with self.changed:
            self.paths.clear()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tasks/a").mkdir(parents=True)
    (tmp_path / "tasks/a/TASK.md").write_text("one\n")
    return tmp_path


@pytest.fixture(params=BOTH)
def bell(request: pytest.FixtureRequest, root: Path, heard: Heard) -> Iterator[Doorbell]:
    bell = Doorbell(str(root), heard, inotify=request.param)
    assert bell.watch(["tasks", "tasks/a"]) == 0
    yield bell
    bell.close()


@pytest.fixture
def linux_bell(root: Path, heard: Heard) -> Iterator[Doorbell]:
    bell = Doorbell(str(root), heard, inotify=True)
    assert bell.watch(["tasks", "tasks/a"]) == 0
    yield bell
    bell.close()


def settled(root: Path, heard: Heard) -> None:
    """Return when everything that happened before has been heard: what comes last is heard last."""
    (root / "tasks/a/last").write_text("x")
    assert heard.wait("tasks/a/last")


def test_a_save_in_place_rings(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "tasks/a/TASK.md").write_text("two\n")
    assert heard.wait("tasks/a/TASK.md")


def test_a_save_by_rename_rings_with_the_name_that_stays(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "tasks/a/.TASK.md.tmp123").write_text("two\n")
    os.replace(root / "tasks/a/.TASK.md.tmp123", root / "tasks/a/TASK.md")
    assert heard.wait("tasks/a/TASK.md")


def test_a_save_renamed_in_from_outside_rings(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "elsewhere").write_text("two\n")
    os.replace(root / "elsewhere", root / "tasks/a/TASK.md")
    assert heard.wait("tasks/a/TASK.md")


def test_the_way_vim_saves_rings(bell: Doorbell, root: Path, heard: Heard) -> None:
    """Swap file; a probe named 4913; the old text renamed to a backup; the new one written; backup and swap gone."""
    folder = root / "tasks/a"
    (folder / ".TASK.md.swp").write_bytes(b"swap")
    (folder / "4913").touch()
    (folder / "4913").unlink()
    os.rename(folder / "TASK.md", folder / "TASK.md~")
    (folder / "TASK.md").write_text("two\n")
    (folder / "TASK.md~").unlink()
    (folder / ".TASK.md.swp").unlink()
    assert heard.wait("tasks/a/TASK.md")


def test_a_deleted_file_rings(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "tasks/a/TASK.md").unlink()
    assert heard.wait("tasks/a/TASK.md")


def test_a_file_moved_away_rings(bell: Doorbell, root: Path, heard: Heard) -> None:
    os.rename(root / "tasks/a/TASK.md", root / "gone.md")
    assert heard.wait("tasks/a/TASK.md")


def test_reading_does_not_ring(bell: Doorbell, root: Path, heard: Heard) -> None:
    settled(root, heard)
    heard.clear()
    (root / "tasks/a/TASK.md").read_text()
    os.listdir(root / "tasks/a")
    (root / "tasks/a/after").write_text("x")
    assert heard.wait("tasks/a/after")
    assert "tasks/a/TASK.md" not in heard.paths


@linux
def test_a_change_of_mode_rings_because_git_keeps_the_executable_bit(
    linux_bell: Doorbell, root: Path, heard: Heard
) -> None:
    (root / "tasks/a/TASK.md").chmod(0o755)
    assert heard.wait("tasks/a/TASK.md")


def test_a_new_folder_is_watched_from_then_on(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "tasks/b").mkdir()
    assert heard.wait("tasks/b")
    (root / "tasks/b/TASK.md").write_text("later\n")
    assert heard.wait("tasks/b/TASK.md")


@linux
def test_what_was_written_before_the_new_folder_was_watched_is_told(
    linux_bell: Doorbell, root: Path, heard: Heard
) -> None:
    (root / "elsewhere/deep/deeper").mkdir(parents=True)
    (root / "elsewhere/TASK.md").write_text("one\n")
    (root / "elsewhere/deep/deeper/TASK.md").write_text("two\n")
    os.rename(root / "elsewhere", root / "tasks/c")
    assert heard.wait("tasks/c", "tasks/c/TASK.md", "tasks/c/deep/deeper/TASK.md")
    (root / "tasks/c/deep/deeper/TASK.md").write_text("three\n")
    assert heard.wait("tasks/c/deep/deeper/TASK.md")


@linux
def test_a_hundred_folders_made_at_once_with_a_file_each_are_all_told(
    linux_bell: Doorbell, root: Path, heard: Heard
) -> None:
    wanted = [f"tasks/2026/01/{n:02}/t{n}/TASK.md" for n in range(100)]
    for path in wanted:
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text("x")
    assert heard.wait(*wanted)


def test_a_folder_that_was_not_asked_for_does_not_ring(bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "other").mkdir()
    (root / "other/file").write_text("x")
    settled(root, heard)
    assert not [path for path in heard.paths if path.startswith("other")]


@linux
def test_hidden_folders_are_not_followed(linux_bell: Doorbell, root: Path, heard: Heard) -> None:
    (root / "tasks/.git/objects").mkdir(parents=True)
    (root / "tasks/.git/objects/x").write_text("x")
    settled(root, heard)
    assert not [path for path in heard.paths if path.startswith("tasks/.git/")]


@linux
def test_who_builds_it_says_which_new_folders_are_followed(root: Path, heard: Heard) -> None:
    bell = Doorbell(str(root), heard, follows=lambda path: not path.endswith("outputs"))
    try:
        bell.watch(["tasks/a"])
        (root / "tasks/a/outputs").mkdir()
        (root / "tasks/a/comments").mkdir()
        (root / "tasks/a/outputs/big").write_text("x")
        (root / "tasks/a/comments/one.md").write_text("x")
        assert heard.wait("tasks/a/comments/one.md")
        assert "tasks/a/outputs/big" not in heard.paths
    finally:
        bell.close()


@linux
def test_a_folder_renamed_rings_under_its_new_name(linux_bell: Doorbell, root: Path, heard: Heard) -> None:
    os.rename(root / "tasks/a", root / "tasks/z")
    assert heard.wait("tasks/z/TASK.md")
    (root / "tasks/z/new.md").write_text("x")
    assert heard.wait("tasks/z/new.md")
    assert not [path for path in heard.paths if path.startswith("tasks/a/")]


@linux
def test_a_folder_made_again_is_watched_again_though_somebody_stands_in_the_old_one(
    linux_bell: Doorbell, root: Path, heard: Heard
) -> None:
    (root / "tasks/b").mkdir()
    assert heard.wait("tasks/b")
    here = os.open(root / "tasks/b", os.O_RDONLY)
    try:
        (root / "tasks/b").rmdir()
        (root / "tasks/b").mkdir()
        settled(root, heard)
        heard.clear()
        (root / "tasks/b/TASK.md").write_text("x")
        assert heard.wait("tasks/b/TASK.md")
    finally:
        os.close(here)


@linux
def test_a_deleted_folder_is_no_longer_counted(linux_bell: Doorbell, root: Path, heard: Heard) -> None:
    assert linux_bell.coverage()[:2] == (2, 2)
    (root / "tasks/a/TASK.md").unlink()
    (root / "tasks/a").rmdir()
    assert heard.wait("tasks/a")
    assert heard.until(lambda: linux_bell.coverage()[:2] == (1, 1))


@linux
def test_what_has_no_room_is_counted(root: Path, heard: Heard) -> None:
    bell = Doorbell(str(root), heard, limit=3)
    try:
        folders = [f"tasks/t{n}" for n in range(5)]
        for folder in folders:
            (root / folder).mkdir()
        assert bell.watch(folders) == 2
        assert bell.coverage() == (3, 5, 3)
        bell.unwatch(["tasks/t0"])  # the oldest that was refused takes its place
        assert bell.coverage() == (3, 4, 3)
        (root / "tasks/t3/TASK.md").write_text("x")
        assert heard.wait("tasks/t3/TASK.md")
    finally:
        bell.close()


@linux
def test_a_folder_that_is_not_there_is_not_wanted(linux_bell: Doorbell) -> None:
    assert linux_bell.watch(["tasks/never", "tasks/a/TASK.md"]) == 0
    assert linux_bell.coverage()[:2] == (2, 2)


@linux
def test_watching_twice_is_watching_once(linux_bell: Doorbell) -> None:
    assert linux_bell.watch(["tasks/a", "tasks/a/"]) == 0
    assert linux_bell.coverage()[:2] == (2, 2)


@linux
def test_by_default_at_most_half_of_the_systems_watches_are_used(linux_bell: Doorbell) -> None:
    assert linux_bell.coverage()[2] == int(Path("/proc/sys/fs/inotify/max_user_watches").read_text()) // 2


LIMITED = """
import sys, os
open("/proc/sys/user/max_inotify_watches", "w").write("3")
from ravi.bus.doorbell import Doorbell
root = sys.argv[1]
for n in range(6):
    os.makedirs(f"{root}/t{n}")
bell = Doorbell(root, lambda paths: None)
print(bell.watch([f"t{n}" for n in range(6)]), *bell.coverage())
bell.close()
"""


@linux
def test_the_kernels_own_limit_is_said_not_swallowed(tmp_path: Path) -> None:
    """In a user namespace of its own, where the kernel allows three watches."""
    namespace = ["unshare", "--user", "--map-root-user"]
    try:
        subprocess.run([*namespace, "test", "-w", "/proc/sys/user/max_inotify_watches"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    command = [*namespace, sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("3 3 6 3\n", "")


@linux
def test_a_queue_that_overflows_says_look_everywhere(root: Path) -> None:
    """Ten thousand and more real events while whoever answers the bell is busy."""
    busy, free = threading.Event(), threading.Event()
    heard = Heard()

    def answer(paths: frozenset[str]) -> None:
        busy.set()
        free.wait(30)
        heard(paths)

    bell = Doorbell(str(root), answer)
    try:
        bell.watch(["tasks/a"])
        (root / "tasks/a/first").write_text("x")
        assert busy.wait(10)
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if limit > 50_000:
            pytest.skip("the queue is too long to be filled in a test")
        for n in range(limit // 2 + 100):
            name = root / "tasks/a" / f"f{n % 7}"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.unlink(name)
        free.set()
        assert heard.until(lambda: heard.overflows > 0)
        (root / "tasks/a/after").write_text("x")
        assert heard.wait("tasks/a/after")
    finally:
        free.set()
        bell.close()


@linux
def test_closing_leaves_no_thread_and_no_descriptor(root: Path, heard: Heard) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        bell = Doorbell(str(root), heard)
        bell.watch(["tasks", "tasks/a"])
        (root / "tasks/a/x").write_text("x")
        bell.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_nothing_rings_after_it_is_closed(bell: Doorbell, root: Path, heard: Heard) -> None:
    settled(root, heard)
    bell.close()
    heard.clear()
    (root / "tasks/a/TASK.md").write_text("two\n")
    assert heard.paths == set()


def test_a_bug_in_what_it_calls_does_not_silence_it(root: Path, heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    def answer(paths: frozenset[str]) -> None:
        heard(paths)
        if "tasks/a/one" in paths:
            raise ValueError("bug")

    bell = Doorbell(str(root), answer)
    try:
        bell.watch(["tasks/a"])
        (root / "tasks/a/one").write_text("x")
        assert heard.wait("tasks/a/one")
        (root / "tasks/a/two").write_text("x")
        assert heard.wait("tasks/a/two")
        assert "nobody could answer" in caplog.text
    finally:
        bell.close()


UNREADABLE = """
import os, tempfile
from ravi.bus.doorbell import Doorbell
Doorbell("/", lambda paths: None).close()  # import everything: what comes next may not read it
if os.geteuid() == 0:
    os.setuid(65534)
with tempfile.TemporaryDirectory(dir="/tmp") as root:
    os.mkdir(root + "/secret", 0)
    bell = Doorbell(root, lambda paths: None)
    print(bell.watch(["secret"]), *bell.coverage()[:2])
    os.chmod(root + "/secret", 0o700)
    print(bell.watch(["secret"]), *bell.coverage()[:2])
    bell.close()
"""


@linux
def test_a_folder_that_may_not_be_read_is_counted_as_not_watched() -> None:
    command = [sys.executable, "-c", UNREADABLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("1 0 1\n0 1 1\n", "")
