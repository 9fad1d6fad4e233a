"""A launch, measured: from the order to the agent's exec and to the run's end, alone and fifty at once; and a lane.

python -m tests.bench.bench_launch
"""

import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ravi.runners.base import Order
from ravi.runners.process import Processes
from ravi.store.git import find
from ravi.store.lanes import Lane, Lanes
from ravi.store.objects import Objects

PATH = {"PATH": "/usr/bin:/bin"}
TASK = "tasks/2026/11/20/login-7f3k2a"


def row(name: str, seconds: list[float]) -> float:
    """Print one line of the table, in milliseconds; answers the median."""
    ms = sorted(value * 1000 for value in seconds)
    middle = statistics.median(ms)
    print(f"{name:48}{ms[0]:9.2f}{middle:9.2f}{ms[int(len(ms) * 0.99)]:9.2f}")
    return middle


def timed(work: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def launch(processes: Processes, order: Order) -> tuple[float, float]:
    """Seconds until the agent is there (its exec was seen, and the daemon knows), and until nobody is left."""
    start = time.perf_counter()
    there: list[float] = []
    end = processes.run(order, lambda data: None, lambda *_: there.append(time.perf_counter()), lambda stop: None)
    assert end.code == 0, end
    return there[0] - start, time.perf_counter() - start


def measure_launch(folder: Path) -> float:
    def order(name: str) -> Order:
        return Order(f"{name}.1", "hello\n", ("true",), folder, PATH | {"RAVI_RUN": name}, 60.0, folder / f"{name}.log")

    with Processes() as processes:
        row("the keeper's server is spawned", timed(processes.start, 1))
        alone = [launch(processes, order("alone")) for _ in range(300)]
        median = row("order -> exec, told to the daemon", [started for started, _ in alone])
        row("order -> nobody left (`true`)", [ended for _, ended in alone])
        row(
            "subprocess.run(`true`), for comparison", timed(lambda: subprocess.run(["true"], env=PATH, check=True), 300)
        )
        many: list[tuple[float, float]] = []
        go = threading.Barrier(51)

        def one(number: int) -> None:
            go.wait()
            many.append(launch(processes, order(f"many-{number}")))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        go.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        row("fifty at once: order -> exec, each", [started for started, _ in many])
        row("fifty at once: all of them", [time.perf_counter() - start])
        flood = Order("f.1", "", ("head", "-c", "1G", "/dev/zero"), folder, PATH, 60.0, folder / "flood.log")
        row("an agent prints 1 GiB", timed(lambda: launch(processes, flood), 1))
    return median


def measure_lane(folder: Path) -> float:
    for path in (f"{TASK}/TASK.md", f"{TASK}/comments/a.md", f"{TASK}/runs/1/RUN.md", "agents/alice/AGENT.md"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path * 20)
    for number in range(1000):
        (folder / f"notes/{number % 20}").mkdir(parents=True, exist_ok=True)
        (folder / f"notes/{number % 20}/{number}.md").write_text(str(number))
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*me, "commit", "-qm", "begin"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    dirs = find(str(folder))
    objects = Objects(dirs.common_dir)
    lanes = Lanes(dirs, objects)
    made: list[Lane] = []

    def make(*more: str) -> None:
        made.append(lanes.make(f"t-{len(made)}.1", head.stdout.strip(), (TASK, "agents/alice", *more)))

    make()
    median = row("lane of 4 files: make", timed(make, 50))
    row("lane of 4 files: collect", timed(lambda: lanes.collect(made[-1], lambda path: False), 50))
    row("lane of 4 files: remove", timed(lambda: lanes.remove(made.pop()), 50))
    row("lane of 1,000 files: make", timed(lambda: make("notes"), 3))
    row("lane of 1,000 files: collect", timed(lambda: lanes.collect(made[-1], lambda path: True), 10))
    add = ["git", "worktree", "add", "-q", "--detach"]
    trees = iter(range(10))
    worktree = timed(lambda: subprocess.run([*add, f".ravi/w{next(trees)}"], cwd=folder, check=True), 5)
    row("git worktree add of the same, for comparison", worktree)
    objects.close()
    return median


def report(folder: Path) -> None:
    print(f"\n{'ms':48}{'best':>9}{'median':>9}{'p99':>9}")
    measure_launch(folder)
    measure_lane(folder / "workspace")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        report(Path(place))
