"""The power goes: what was acknowledged is on the disk itself, and the next start puts everything right.

A file system in an image file stands for the disk. What the system still holds in memory is not in the image: a copy
of it, made while every process stands still, is what a machine would find after a power cut.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, Promises, at, chance, check, eventually, orphans, size

pytestmark = pytest.mark.fault


class Machine:
    """A disk as an image, mounted, and what a power cut makes of it."""

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(96 << 20)
        _run("mkfs.ext4", "-q", str(self.image))
        self.plug_in()

    def plug_in(self) -> None:
        """Mount the disk; the file system replays its journal."""
        _run("mount", "-o", "loop", str(self.image), str(self.place))

    def unplug(self) -> None:
        """Unmount it, as soon as nothing has it open any more."""
        eventually(lambda: subprocess.run(["umount", self.place], capture_output=True).returncode == 0)

    def cut(self, processes: list[int]) -> None:
        """Lose everything that is not on the disk, together with these processes."""
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        after = self.image.with_suffix(".after")
        shutil.copyfile(self.image, after)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self._users())
        self.unplug()
        after.replace(self.image)
        self.plug_in()

    def _users(self) -> list[str]:
        """Processes that still have something open there."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
                for link in links:
                    with contextlib.suppress(OSError):
                        if os.readlink(link).startswith(f"{self.place}/"):
                            found.append(pid)
        return found


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("making a file system in an image needs root on Linux, and mkfs.ext4")
    try:
        made = Machine(tmp_path)
    except subprocess.CalledProcessError as fault:
        pytest.skip(f"no image can be mounted here: {fault.stderr.decode().strip()}")
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", made.place], check=False)


def test_what_was_acknowledged_outlives_a_power_cut(workspace, machine, tmp_path, figures):
    there = at(workspace, machine.place / "workspace")
    there.root.mkdir()
    there.run("init")
    there.write("ravi.yaml", there.read("ravi.yaml") + "\nquiet: 50ms\n")
    there.agent("worker", 'mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt; echo done\n', "concurrency: 4\n")
    there.up()
    os.sync()
    rng = chance("power")
    promises = Promises()
    cuts = size(4, 50)
    for cut in range(cuts):
        with Daemon(there) as daemon:
            daemon.until(daemon.is_leading)
            for number in range(rng.randint(1, 5)):
                word = f"word-{cut}-{number}"
                task = f"task-{cut}-{number}"
                done = promises.call(there, "tasks", "new", word, "--id", task, "-a", "worker", holding=word)
                assert done.code == 0, done
                promises.task(task, makes="out.txt")
                if rng.random() < 0.5:
                    said = f"said-{cut}-{number}"
                    promises.call(there, "tasks", "comment", task, said, holding=said)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the moment is chance's
                daemon.process.wait(rng.uniform(0, 0.5))
            machine.cut([daemon.process.pid, *(int(one.split()[0]) for one in orphans(there))])
            daemon.process.wait()
        there.run("tasks", "list")
    found = check(there, promises)
    figures(
        cuts=cuts,
        acknowledged=len(promises.acknowledged),
        lost=found.lost,
        doubled=found.doubled,
        half=found.half,
        interrupted=found.interrupted,
    )
