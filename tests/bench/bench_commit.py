"""P1 and P2: what one durable commit costs, and how many a second, beside git and GitPython in the same run.

python -m tests.bench.bench_commit [--tasks 1000 10000 100000] [--quick]
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ravi.core.trailers import Message
from ravi.store import git as plumbing
from ravi.store.objects import Objects, Signature
from ravi.store.refs import Refs
from ravi.store.writer import Draft, Propose, Tip, Writer
from tests.bench.made import GIT, Made, git, make_workspace

ADA = Signature("Ada", "ada@example.org", 1_800_000_000)


class Bench:
    """One workspace with the store opened on it, and the times that were taken."""

    def __init__(self, made: Made) -> None:
        self.made = made
        dirs = plumbing.find(str(made.root))
        self.objects = Objects(dirs.common_dir)
        self.writer = Writer(
            self.objects, Refs(dirs.git_dir, dirs.common_dir), dirs.common_dir, lambda: datetime.now(UTC)
        )
        self.times: list[float] = []

    def commit(self, number: int) -> None:
        """One durable commit of one edited task, timed."""
        started = time.perf_counter()
        assert self.writer.record(self.edit(number)) is not None
        self.times.append(time.perf_counter() - started)

    def edit(self, number: int) -> Propose:
        """What `ravi tasks comment` and its like do: read a document at the tip, and write it changed."""
        path = self.made.tasks[number * 7919 % len(self.made.tasks)]

        def propose(tip: Tip) -> Draft:
            text = tip.read(path)
            assert text is not None
            return Draft(
                Message(f"task {number}: edited", "", {"Ravi-Task": f"t{number}"}), {path: text + b"%d\n" % number}, ADA
            )

        return propose

    def work(self, share: int, number: int) -> None:
        """What one of several threads does."""
        for k in range(share):
            self.writer.record(self.edit(number * 10_000 + k))

    def packs(self) -> int:
        return sum(name.endswith(".pack") for name in os.listdir(self.objects.folder))

    def close(self) -> None:
        self.writer.close()
        self.objects.close()


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000, 100_000])
    words.add_argument("--commits", type=int, default=300, help="timed commits of each size")
    words.add_argument("--total", type=int, default=2000, help="commits of each throughput row")
    words.add_argument("--long", type=int, default=0, help="also: so many single commits in one repository")
    words.add_argument("--quick", action="store_true", help="without git and GitPython")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="ravi-bench-") as folder:
        benches = {}
        for tasks in asked.tasks:
            started = time.perf_counter()
            benches[tasks] = Bench(make_workspace(Path(folder, str(tasks)), tasks))
            print(f"<!-- {tasks} tasks made in {time.perf_counter() - started:.1f} s -->", flush=True)
        _latency(benches, asked.commits, with_rivals=not asked.quick)
        _throughput(benches, asked.total)
        if asked.long:
            _long(next(iter(benches.values())), asked.long)
        for bench in benches.values():
            bench.close()
            git(bench.made.root, "fsck", "--strict", "--no-dangling")


def _latency(benches: dict[int, Bench], commits: int, *, with_rivals: bool) -> None:
    for bench in benches.values():
        for number in range(10):  # warm
            bench.commit(number)
        bench.times.clear()
    floor = []
    for number in range(commits):  # in turn, so that a busy machine is busy for all of them
        for bench in benches.values():
            bench.commit(1000 + number)
        floor.append(_floor(next(iter(benches.values())).made.root / ".git", number))
    print("\n| P1: one commit of one change, ms | " + " | ".join(f"{tasks} tasks" for tasks in benches) + " |")
    print("|---|" + "---|" * len(benches))
    _row("the disk alone: five syncs of the same files, p50", [_ms(statistics.median(floor))] * len(benches))
    _row("the same, p99", [_ms(_p99(floor))] * len(benches))
    _row("ravi, durable, p50", [_ms(statistics.median(bench.times)) for bench in benches.values()])
    _row("ravi, durable, p99", [_ms(_p99(bench.times)) for bench in benches.values()])
    _row("ravi, packs after it", [str(bench.packs()) for bench in benches.values()])
    if with_rivals:
        _row("`git add` + `git commit`, not durable, p50", [_rival(bench, _git_commit) for bench in benches.values()])
        _row("GitPython index.add + commit, p50", [_rival(bench, _gitpython_commit) for bench in benches.values()])
    first, *rest = (statistics.median(bench.times) for bench in benches.values())
    for tasks, median in zip(list(benches)[1:], rest, strict=True):
        print(f"\n{tasks} tasks cost {median / first:.2f} times what {next(iter(benches))} tasks cost.")


def _floor(folder: Path, number: int) -> float:
    """What a durable commit asks of the disk, and nothing else: two files, a folder, a ref, its folder."""
    started = time.perf_counter()
    for above, files in (("bench-packs", ("pack", "idx")), ("bench-refs", ("ref",))):
        place = folder / above
        place.mkdir(exist_ok=True)
        fds = [os.open(place / f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in files]
        for fd in fds:
            os.write(fd, b"x" * 8000)
        for fd in fds:
            os.fsync(fd)
            os.close(fd)
        for name in files:
            os.rename(place / f"{name}.tmp", place / f"{number % 32}.{name}")
        fd = os.open(place, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return time.perf_counter() - started


def _throughput(benches: dict[int, Bench], total: int) -> None:
    print(
        "\n| P2: commits a second, each its own, durable | " + " | ".join(f"{tasks} tasks" for tasks in benches) + " |"
    )
    print("|---|" + "---|" * len(benches))
    for threads in (1, 8, 32, 100):
        rates = []
        for bench in benches.values():
            share = max((total if threads > 1 else total // 8) // threads, 1)
            with _timed() as taken:
                _together(threads, partial(bench.work, share))
            rates.append(f"{threads * share / taken[0]:.0f}")
        _row(f"{threads} thread{'s' * (threads > 1)}", rates)


def _long(bench: Bench, commits: int) -> None:
    print(f"\n| {commits} single commits in one repository | p50 ms | p99 ms | packs, most |\n|---|---|---|---|")
    step = max(commits // 10, 1)
    for start in range(0, commits, step):
        bench.times.clear()
        most = 0
        for number in range(start, start + step):
            bench.commit(number)
            most = max(most, bench.packs())
        print(
            f"| {start} … {start + step} | {_ms(statistics.median(bench.times))} | {_ms(_p99(bench.times))} | {most} |"
        )
    size = sum(entry.stat().st_size for entry in os.scandir(bench.objects.folder))
    print(f"\nobjects/pack: {size / (1 << 20):.0f} MiB in {bench.packs()} packs")


def _rival(bench: Bench, commit: Callable[[Path, str], None]) -> str:
    times: list[float] = []
    deadline = time.perf_counter() + 8
    for number in range(20):
        path = bench.made.tasks[number * 7919 % len(bench.made.tasks)]
        with (bench.made.root / path).open("a") as file:
            file.write(f"{commit.__name__} {number}\n")
        with _timed() as taken:
            commit(bench.made.root, path)
        times.append(taken[0])
        if time.perf_counter() > deadline:
            break
    return _ms(statistics.median(times))


def _git_commit(root: Path, path: str) -> None:
    git(root, "add", path)
    git(root, "commit", "--quiet", "-m", "edited")


def _gitpython_commit(root: Path, path: str) -> None:
    import git as gitpython

    ada = gitpython.Actor("Ada", "ada@example.org")
    with gitpython.Repo(root) as repository:
        repository.index.add([path])
        repository.index.commit("edited", author=ada, committer=ada)


def _together(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    taken = [0.0]
    started = time.perf_counter()
    yield taken
    taken[0] = time.perf_counter() - started


def _row(name: str, cells: list[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


if __name__ == "__main__":
    os.environ.update(GIT)
    main()
