"""A disk that somebody else fills up: ravi says so, damages nothing, and goes on when there is room again."""

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, Editor, Promises, at, check, git, percentile, size

pytestmark = pytest.mark.fault

FULL_DISK = "No space left on device"


class Disk:
    """A small file system with a workspace on it, and a stranger who fills it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.filler = place / "filler"

    def fill(self, leaving: int = 0) -> None:
        """Take all room but for `leaving` bytes."""
        with open(self.filler, "ab", buffering=0) as file:
            while _fits(lambda: file.write(b"x" * 4096)):
                pass
            file.truncate(max(0, file.tell() - leaving))

    def fill_names(self) -> None:
        """Take all inodes: there is room, but for no new file."""
        self.filler.mkdir()
        number = 0
        while _fits((self.filler / str(number)).touch):
            number += 1

    def clear(self) -> None:
        """Give it all back."""
        if self.filler.is_dir():
            for entry in self.filler.iterdir():
                entry.unlink()
            self.filler.rmdir()
        else:
            self.filler.unlink(missing_ok=True)


def _fits(write: Callable[[], object]) -> bool:
    try:
        write()
    except OSError as fault:
        if fault.errno != errno.ENOSPC:
            raise
        return False
    return True


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("making a small file system needs root on Linux")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=4k", "tmpfs", place], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def small(workspace, disk):
    """A workspace on the small disk."""
    there = at(workspace, disk.place / "workspace")
    there.root.mkdir()
    there.run("init")
    there.write("ravi.yaml", there.read("ravi.yaml") + "\nquiet: 50ms\n")
    return there


def own(workspace) -> dict[Path, bytes]:
    """Every file a person sees."""
    listed = git(workspace, "ls-files", "-z").decode().split("\0")
    return {workspace.root / path: (workspace.root / path).read_bytes() for path in listed if path}


FILLS = {"room": Disk.fill, "names": Disk.fill_names}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_a_command_on_a_full_disk_says_so_and_damages_nothing(small, disk, fill: Callable[[Disk], None]):
    promises = Promises()
    promises.call(small, "tasks", "new", "before", "--id", "before", holding="before")
    files = own(small)
    fill(disk)
    for words in (("new", "during-new", "--body", "x" * 50_000), ("comment", "before", "during-comment" * 4000)):
        done = promises.call(small, "tasks", *words)
        assert done.code == 7, done
        assert FULL_DISK in done.err, done.err
        assert "make room" in done.err, done.err
    assert own(small) == files
    listed = promises.call(small, "tasks")  # the index itself may need room, to be opened
    assert "before" in listed.out or (listed.code, FULL_DISK in listed.err) == (7, True), listed
    disk.clear()
    done = promises.call(small, "tasks", "new", "after", "--id", "after", holding="after")
    assert done.code == 0, done
    check(small, promises)
    assert "during" not in git(small, "log", "-p", "--all").decode(), "what was refused is not there"


def test_a_disk_that_fills_up_at_any_page_of_a_command_costs_nothing(small, disk, figures):
    promises = Promises()
    promises.call(small, "tasks", "new", "before", "--id", "before", holding="before")
    codes: Counter[int] = Counter()
    pages = range(0, 100, size(5, 1))
    for number in pages:
        disk.fill(leaving=number * 4096)
        files = own(small)
        word = f"page-{number}"
        done = promises.call(small, "tasks", "new", word, "--id", word, "-b", "text " * 2000, holding=word)
        codes[done.code] += 1
        assert done.code in (0, 7), done
        assert all(path.read_bytes() == data for path, data in files.items())
        disk.clear()
        assert promises.call(small, "tasks", "comment", "before", f"after {number}").code == 0
    found = check(small, promises)
    assert codes[7] > 0, "the disk was never full"
    figures(points=len(pages), refused=codes[7], acknowledged=codes[0], lost=found.lost, half=found.half)


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_a_daemon_on_a_full_disk_says_so_and_goes_on_when_there_is_room(small, disk, tmp_path, fill, figures):
    gate, begun, ledger = tmp_path / "gate", tmp_path / "begun", tmp_path / "ledger"
    os.mkfifo(gate)
    promises = Promises()
    editor = Editor(small, promises, "editor")
    note = editor.new("note", "")
    extra = f"env:\n  GATE: {gate}\n  BEGUN: {begun}\n  LEDGER: {ledger}\nconcurrency: 4\n"
    small.agent(
        "slow",
        'echo "$RAVI_RUN" >> "$LEDGER"; mkdir -p outputs; echo made > outputs/out.txt\n'
        'touch "$BEGUN"; read x < "$GATE"\n',
        extra,
    )
    small.agent("quick", 'echo "$RAVI_RUN" >> "$LEDGER"; mkdir -p outputs; echo made > outputs/out.txt\n', extra)
    small.up()
    editor.new("long", "slow")
    promises.task("long", makes="out.txt")
    editor.new("next", "quick", "depends_on: [long]\n")
    promises.task("next", makes="out.txt")
    resumed = []
    with Daemon(small) as daemon:
        daemon.until(begun.exists)
        fill(disk)
        # A save of the same length needs no room: what is new in it is taken as soon as there is some.
        text = (small.root / note).read_bytes()
        word = next(word for word, path in promises.saved.items() if path == note)
        changed = "Z" + word[1:]
        with open(small.root / note, "r+b") as file:
            file.write(text.replace(word.encode(), changed.encode()))
        promises.saved[changed] = note
        files = own(small)
        gate.write_text("go\n")
        daemon.until(lambda: FULL_DISK in daemon.said())
        done = promises.call(small, "tasks", "new", "during", "--body", "x" * 50_000)
        assert (done.code, FULL_DISK in done.err) == (7, True), done
        assert daemon.process.poll() is None, daemon.said()
        assert {path: path.read_bytes() for path in files} == files
        disk.clear()
        freed = daemon.elapsed()
        daemon.until((small.root / "tasks/editor/next/outputs/out.txt").exists)
        resumed.append(daemon.elapsed() - freed)
        done = promises.call(small, "tasks", "new", "after", "--id", "after", "-a", "quick", holding="after")
        promises.task("after", makes="out.txt")
        assert done.code == 0, done
        path = done.out.split()[1].replace("TASK.md", "outputs/out.txt")
        daemon.until((small.root / path).exists)
        assert daemon.stop() == 0, daemon.said()
        assert "Traceback" not in daemon.said(), daemon.said()
    found = check(small, promises, ledger=ledger)
    assert [run["attempt"] for run in small.json("runs", "list", "--task", "long")] == [1], "it was not run again"
    figures(resumed_after=f"{percentile(resumed, 1):.2f} s", lost=found.lost, half=found.half, damaged=0)
