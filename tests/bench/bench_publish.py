"""P11: recorded to published (branch, files and index together), and what looking at the files costs.

python -m tests.bench.bench_publish [--tasks 1000 10000 100000] [--quick]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ravi.core.trailers import Message
from ravi.store import git as plumbing
from ravi.store.ingest import Ingest
from ravi.store.objects import Objects, Signature
from ravi.store.publish import Publisher
from ravi.store.refs import Refs
from ravi.store.writer import Draft, Tip, Writer
from tests.bench.made import GIT, Made, git, make_workspace

ADA = Signature("Ada", "ada@example.org", 1_800_000_000)
TARGETS = {1_000: 50, 10_000: 100, 100_000: 500}  # milliseconds for a batch
ROWS = ("publish 1 file", "publish 10 files", "publish 100 files", "publish 10 new tasks", "look at 1 file",
        "record and publish 1 save", "look at everything")  # fmt: skip


class Bench:
    """One workspace with everything opened on it that touches the person's files."""

    def __init__(self, made: Made) -> None:
        self.made = made
        dirs = plumbing.find(str(made.root))
        self.objects = Objects(dirs.common_dir)
        refs = Refs(dirs.git_dir, dirs.common_dir)
        self.writer = Writer(self.objects, refs, dirs.common_dir, lambda: datetime.now(UTC))
        self.publisher = Publisher(dirs, self.objects, refs, self.writer, "main")
        self.ingest = Ingest(self.publisher, owner_of=lambda _: None, entropy=os.urandom)
        self.number = 0

    def measured(self, rounds: int) -> dict[str, float]:
        """Milliseconds by row, medians."""
        found = {
            f"publish {count} file{'s' if count > 1 else ''}": median(
                rounds, lambda c=count: self.publish(self.edits(c))
            )
            for count in (1, 10, 100)
        }
        found["publish 10 new tasks"] = median(rounds, lambda: self.publish(self.news(10)))
        found["look at 1 file"] = median(rounds * 5, self.look_at_one)
        found["record and publish 1 save"] = median(rounds, self.take_one)
        found["look at everything"] = median(3, lambda: timed(self.ingest.look))
        return found

    def publish(self, changes: Mapping[str, bytes]) -> float:
        """Record (not timed) and publish (timed)."""

        def propose(tip: Tip) -> Draft:
            return Draft(Message("workspace: edited"), changes, ADA)

        self.writer.record(propose)
        took = timed(self.publisher.publish)
        git(self.made.root, "rev-parse", "--quiet", "--verify", "HEAD")
        return took

    def edits(self, count: int) -> dict[str, bytes]:
        self.number += 1
        paths = {self.made.tasks[(self.number * 7919 + n * 104_729) % len(self.made.tasks)] for n in range(count)}
        return {path: (self.made.root / path).read_bytes() + b"%d\n" % self.number for path in paths}

    def news(self, count: int) -> dict[str, bytes]:
        self.number += 1
        return {f"tasks/2026/11/21/new-{self.number}-{n}/TASK.md": b"---\nid: n\n---\n" for n in range(count)}

    def save(self) -> str:
        ((path, data),) = self.edits(1).items()
        (self.made.root / path).write_bytes(data)
        return path

    def look_at_one(self) -> float:
        path = self.made.tasks[self.number * 7919 % len(self.made.tasks)]
        return timed(lambda: self.ingest.look([path]))

    def take_one(self) -> float:
        path = self.save()

        def take() -> None:
            done = self.ingest.record(self.ingest.look([path]), "Ada", "ada@example.org")
            assert done.commits
            self.publisher.publish()

        return timed(take)


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def median(rounds: int, act: Callable[[], float]) -> float:
    act()  # the first one warms caches
    return statistics.median(act() for _ in range(rounds))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--quick", action="store_true", help="small, for a first look")
    asked = parser.parse_args()
    sizes = [200, 1_000] if asked.quick else asked.tasks
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="ravi-bench-") as folder:
        for size in sizes:
            bench = Bench(make_workspace(Path(folder, str(size)), size))
            found[size] = bench.measured(3 if asked.quick else 15)
            assert git(bench.made.root, "status", "--porcelain") == ""
            bench.objects.close()
    print(f"| ms, median | {' | '.join(f'{size:,} tasks' for size in sizes)} |")
    print("|---|" + "---:|" * len(sizes))
    for row in ROWS:
        print(f"| {row} | {' | '.join(f'{found[size][row]:.1f}' for size in sizes)} |")
    print(f"| aim for a batch | {' | '.join(f'≤ {TARGETS.get(size, 500)}' for size in sizes)} |")


if __name__ == "__main__":
    os.environ.update(GIT)
    main()
