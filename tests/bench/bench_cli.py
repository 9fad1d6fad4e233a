"""P5 and P6: what a command costs on the wall clock, as a whole process, beside git and bare Python in the same run.

python -m tests.bench.bench_cli [--tasks 1000 10000 100000] [--rounds 15] [--quick]

Every round runs every command once, one after the other, so that a busy moment of the machine falls on all of them.
A cell is the median and the best time on the wall, and the least processor time, with all children: on a busy machine
the last two say more. `edit` and `new` end when their commit is durable and lies in branch, files and index.
"""

import argparse
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.made import GIT, make_workspace

PYTHON = sys.executable
RAVI = os.path.join(os.path.dirname(PYTHON), "ravi")  # the script that pip makes
MODULE = [PYTHON, "-m", "ravi"]
LISTING = """
import sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT id, status, assignee, title FROM tasks ORDER BY id")
sys.stdout.write("".join("%s  %s  %s  %s\\n" % row for row in rows))
"""
GOALS = {
    "ravi --version": 25, "list": 60, "show": 55, "search": 55, "edit": 75, "new": 75,
}  # fmt: skip

Command = Callable[[int], Sequence[str]]  # the words of the n-th call


class Taken(NamedTuple):
    """Milliseconds of one call."""

    wall: float
    processor: float


class Bench:
    """Commands in one folder, and what each call took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands: dict[str, Command] = {}
        self.taken: dict[str, list[Taken]] = {}

    def add(self, name: str, *words: str | Callable[[int], str]) -> None:
        """A command; a word that is a function is told the number of the call."""
        self.commands[name] = lambda n: [word(n) if callable(word) else word for word in words]

    def run(self, rounds: int) -> None:
        """Call each once unmeasured (caches fill, the index is made), then `rounds` times in turn."""
        for n in range(rounds + 1):
            for name, command in self.commands.items():
                taken = timed(command(n), self.folder)
                if n:
                    self.taken.setdefault(name, []).append(taken)

    def cell(self, name: str) -> str:
        walls = [taken.wall for taken in self.taken[name]]
        processor = min(taken.processor for taken in self.taken[name])
        return f"{statistics.median(walls):.0f} · {min(walls):.0f} · {processor:.0f}"


def timed(words: Sequence[str], folder: Path) -> Taken:
    """From the start of a process to its end; it must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(words, cwd=folder, env=ENVIRON, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall * 1000, used * 1000)


def measured_start(rounds: int, folder: Path) -> Bench:
    """P5: programs that do nothing, and the beginning of everything."""
    bench = Bench(folder)
    bench.add("git --version", "git", "--version")
    bench.add("python -c pass", PYTHON, "-c", "pass")
    bench.add("python -c 'import click'", PYTHON, "-c", "import click")
    bench.add("python -m ravi --version", *MODULE, "--version")
    if os.path.exists(RAVI):
        bench.add("ravi --version", RAVI, "--version")
        bench.add("ravi --help", RAVI, "--help")
    bench.run(rounds)
    return bench


def measured_commands(tasks: int, rounds: int, folder: Path) -> Bench:
    """P6: the commands that people type, in a workspace of so many tasks."""
    made = make_workspace(folder / "ravi", tasks)
    paths = [path for path in made.tasks if b"status: open" in (made.root / path).read_bytes()]
    ids = [path.split("/")[-2] for path in paths]
    ravi = [RAVI] if os.path.exists(RAVI) else MODULE
    table = folder / "rows.sqlite"
    _fill(table)
    rival = folder / "git"
    subprocess.run(["cp", "-a", os.fspath(made.root), os.fspath(rival)], check=True)  # the bare git works in a copy

    def saved(n: int) -> str:
        path = rival / paths[n * 31 % len(paths)]
        path.write_text(path.read_text() + f"{n}\n")
        return f"git add {paths[n * 31 % len(paths)]} && git commit -q -m edited"

    def id(n: int) -> str:
        return ids[n * 17 % len(ids)]

    sail = [*ravi, "tasks", "new", "Sail to Zanzibar"]
    subprocess.run(sail, cwd=made.root, env=ENVIRON, stdout=subprocess.DEVNULL, check=True)
    bench = Bench(made.root)
    bench.add("git log -1", "git", "log", "-1")
    bench.add("git add && git commit", "sh", "-c", lambda n: f"cd {rival} && {saved(n)}")
    bench.add("python lists 10k rows from SQLite", PYTHON, "-c", LISTING, os.fspath(table))
    for name, words in {
        "list": ("tasks", "list"),
        "list --all": ("tasks", "list", "--all"),
        "show": ("tasks", "show", id),
        "search": ("tasks", "list", "-q", "zanzibar"),
        "search that finds most": ("tasks", "list", "--all", "-q", "calendar backup"),
        "edit": ("tasks", "edit", id, "--set", lambda n: f"round={n + 1}"),
        "list, after an edit": ("tasks", "list"),
        "new": ("tasks", "new", lambda n: f"Round {n}"),
        "show, after new": ("tasks", "show", id),
    }.items():
        bench.add(name, *ravi, *words)
        if "after" not in name:
            bench.add(f"{name} --json", *ravi, *words, "--json")
    bench.run(rounds)
    return bench


def _fill(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE tasks (id TEXT, status TEXT, assignee TEXT, title TEXT)")
        rows = ((f"login-page-{n:06}", "open", "alice", "Login page fails after reset") for n in range(10_000))
        db.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows)
    db.close()


def report(names: Sequence[str], found: dict[str, Bench]) -> None:
    """A table in Markdown."""
    print(f"\n| ms: median · best · processor | {' | '.join(found)} | goal at 10,000 |")
    print("|---|" + "---:|" * (len(found) + 1))
    for name in names:
        cells = [bench.cell(name) for bench in found.values()]
        goal = GOALS.get(name.removesuffix(" --json"))
        print(f"| {name} | {' | '.join(cells)} | {f'≤ {goal}' if goal else ''} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small, for a first look")
    asked = parser.parse_args()
    sizes = [200] if asked.quick else asked.tasks
    rounds = 3 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory(prefix="ravi-bench-") as place:
        start = measured_start(rounds, Path(place))
        report(list(start.commands), {"": start})
        found = {f"{size:,} tasks": measured_commands(size, rounds, Path(place, str(size))) for size in sizes}
    report(list(next(iter(found.values())).commands), found)
    print(f"\nload: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


ENVIRON = {
    name: text for name, text in os.environ.items() if not name.startswith(("RAVI_", "GIT_", "PYTHON"))
} | GIT  # PYTHONDONTWRITEBYTECODE, say, would have every start compile the program anew

if __name__ == "__main__":
    main()
