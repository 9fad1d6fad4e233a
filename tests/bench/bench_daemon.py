"""P3 and P7: from a saved file to the agent's first instruction, and what the daemon costs while nothing happens.

python -m tests.bench.bench_daemon [--tasks 1000 10000 100000] [--saves 60] [--idle 20] [--quick]

The agent is a shell script whose first act is to write down the time. What is told is the time between the save (a
rename, as editors do) and that, less the quiet time that a saved file must lie still for.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.bench_cli import ENVIRON
from tests.bench.made import Made, git, make_workspace

QUIET = 0.05  # seconds
UP = [sys.executable, "-m", "ravi", "up"]
SCRIPT = """#!/bin/sh
date +%s%N > "$STAMPS/.$RAVI_TASK" && mv "$STAMPS/.$RAVI_TASK" "$STAMPS/$RAVI_TASK"
"""
HERTZ = os.sysconf("SC_CLK_TCK")


class Workspace:
    """A made workspace with one agent more, which notes when it starts."""

    def __init__(self, made: Made, stamps: Path) -> None:
        self.root = made.root
        self.stamps = stamps
        stamps.mkdir()
        folder = self.root / "agents/stamper"
        folder.mkdir()
        (folder / "stamp.sh").write_text(SCRIPT)
        (folder / "stamp.sh").chmod(0o755)
        front = f"runner: command\ncommand: [./stamp.sh]\nenv:\n  STAMPS: {stamps}\n"
        (folder / "AGENT.md").write_text(f"---\n{front}---\nNote the time.\n")
        settings = (self.root / "ravi.yaml").read_text()
        (self.root / "ravi.yaml").write_text(settings + f"quiet: {round(QUIET * 1000)}ms\n")
        git(self.root, "add", ".")
        git(self.root, "commit", "--quiet", "-m", "workspace: an agent that notes the time")
        self.open = [path for path in made.tasks if b"status: open" in (self.root / path).read_bytes()]

    def save(self, path: str) -> float:
        """Give an open task to the agent, in an editor; answers the moment of the save."""
        file = self.root / path
        lines = [line for line in file.read_text().split("\n") if not line.startswith("assignee:")]
        part = file.with_name(f".{file.name}.part~")
        part.write_text("\n".join([*lines[:2], "assignee: stamper", *lines[2:]]))
        now = time.time()
        part.rename(file)
        return now

    def latency(self, path: str) -> float:
        """Milliseconds from a save to the agent's start, then wait until the run's end is written out."""
        stamp = self.stamps / path.split("/")[-2]
        saved = self.save(path)
        until(stamp.exists)
        until(lambda: "status: done" in (self.root / path).read_text())
        until(self.is_published)
        return (int(stamp.read_text()) / 1e9 - saved - QUIET) * 1000

    def alone(self) -> float:
        """Milliseconds from starting the agent's program, by nobody's leave, to the time that it notes."""
        begun = time.time()
        env = {**ENVIRON, "STAMPS": os.fspath(self.stamps), "RAVI_TASK": "alone"}
        subprocess.run([self.root / "agents/stamper/stamp.sh"], env=env, check=True)
        return (int((self.stamps / "alone").read_text()) / 1e9 - begun) * 1000

    def is_published(self) -> bool:
        return git(self.root, "rev-parse", "refs/ravi/main") == git(self.root, "rev-parse", "refs/ravi/published")


@contextlib.contextmanager
def daemon(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`ravi up`, ended in order."""
    process = subprocess.Popen(UP, cwd=root, env=ENVIRON, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def until(claim: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.002)


def measured(tasks: int, saves: int, idle: float, folder: Path) -> dict[str, float]:
    """All figures of one size."""
    workspace = Workspace(make_workspace(folder / "ravi", tasks), folder / "stamps")
    found: dict[str, float] = {}
    found["floor: the agent alone, ms"] = statistics.median(workspace.alone() for _ in range(saves))
    found["floor: 12 small files synced, ms"] = statistics.median(synced(folder, 12) for _ in range(saves))
    found["start to idle, no index, s"] = started(workspace.root)
    found["start to idle, index there, s"] = min(started(workspace.root) for _ in range(3))
    with daemon(workspace.root) as process:
        workspace.latency(workspace.open.pop())  # the first one waits for the start
        times = sorted(workspace.latency(workspace.open.pop()) for _ in range(saves))
        found["save to agent, best, ms"] = times[0]
        found["save to agent, p50, ms"] = statistics.median(times)
        found["save to agent, p90, ms"] = times[int(saves * 0.9)]
        found["save to agent, p99, ms"] = times[int(saves * 0.99)]
        before = cpu(process.pid)
        time.sleep(idle)
        found["idle, ms of CPU a second"] = (cpu(process.pid) - before) * 1000 / idle
        found["memory, MB"] = memory(process.pid)
        found["memory at its most, MB"] = memory(process.pid, "VmHWM")
    return found


def synced(folder: Path, count: int) -> float:
    """Milliseconds that so many small files take to be on the disk, one after the other: what durable means here."""
    begun = time.perf_counter()
    for _ in range(count):
        fd = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, b"some bytes")
        os.fsync(fd)
        os.close(fd)
    return (time.perf_counter() - begun) * 1000


def started(root: Path) -> float:
    """Seconds from the call to having looked at everything, and the end."""
    begun = time.perf_counter()
    subprocess.run([*UP, "--until-idle"], cwd=root, env=ENVIRON, check=True, capture_output=True)
    return time.perf_counter() - begun


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


def memory(pid: int, which: str = "VmRSS") -> float:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


GOALS = {
    "start to idle, no index, s": "≤ 30", "start to idle, index there, s": "≤ 2", "save to agent, p50, ms": "≤ 30",
    "save to agent, p99, ms": "≤ 100", "idle, ms of CPU a second": "≈ 0", "memory, MB": "≤ 120",
}  # fmt: skip


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--saves", type=int, default=60)
    parser.add_argument("--idle", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true", help="small, for a first look")
    asked = parser.parse_args()
    sizes = [200] if asked.quick else asked.tasks
    found: dict[int, dict[str, float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="ravi-bench-") as folder:
            saves, idle = (10, 3.0) if asked.quick else (asked.saves, asked.idle)
            found[size] = measured(size, saves, idle, Path(folder))
    print(f"| | {' | '.join(f'{size:,} tasks' for size in sizes)} | goal at 100,000 |")
    print("|---|" + "---:|" * (len(sizes) + 1))
    for row in found[sizes[0]]:
        print(f"| {row} | {' | '.join(f'{found[size][row]:.1f}' for size in sizes)} | {GOALS.get(row, '')} |")
    print(f"\nload: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    main()
