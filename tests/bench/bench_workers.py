"""P10: how the throughput of one-second runs grows with the workers.

python -m tests.bench.bench_workers [--workers 1 2 4] [--slots 2] [--runs 12]

The leader carries out nothing itself. Every worker is a clone of its own with so many slots; the agent sleeps a second
and writes a file. What is told is runs a second between the first start and the last end, and what `n` workers would
make of the throughput of one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ravi.bus.server import NatsServer
from ravi.core.times import parse_moment
from tests.bench.bench_cli import ENVIRON
from tests.bench.bench_daemon import UP
from tests.bench.made import git, make_workspace

RAVI = [sys.executable, "-m", "ravi"]
SLEEP = '#!/bin/sh\nsleep 1\necho "$RAVI_RUN" > outputs/r.txt\n'


def measured(workers: int, slots: int, runs: int, place: Path) -> float:
    """Runs a second, with so many workers."""
    place.mkdir()
    hub = place / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", hub], check=True, env=ENVIRON)
    root = make_workspace(place / "leader", 200).root
    server = NatsServer(str(place / "nats"))
    server.start()
    with ExitStack() as ending:
        ending.callback(server.stop)
        address = server.address
        nats = {"url": list(address.urls), "user": address.user, "password": address.password}
        with (root / "ravi.yaml").open("a") as settings:
            settings.write(f"max_runs: 0\nquiet: 50ms\nnats: {json.dumps(nats)}\n")
        (root / "agents/sleeper").mkdir()
        (root / "agents/sleeper/sleep.sh").write_text(SLEEP)
        (root / "agents/sleeper/sleep.sh").chmod(0o755)
        (root / "agents/sleeper/AGENT.md").write_text(
            "---\nrunner: command\ncommand: [./sleep.sh]\nconcurrency: 999\n---\nSleep.\n"
        )
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", "workspace: an agent that sleeps")
        git(root, "remote", "add", "origin", str(hub))
        ask(root, "sync")
        ending.callback(end, subprocess.Popen(UP, cwd=root, env=ENVIRON, stderr=subprocess.DEVNULL))
        for number in range(workers):
            words = ["worker", "--name", f"w{number}", "--slots", str(slots), "--remote", hub, place / f"w{number}"]
            ending.callback(end, subprocess.Popen([*RAVI, *words], cwd=place, env=ENVIRON, stderr=subprocess.DEVNULL))
        until(lambda: len(ask(root, "workers")) == workers)
        ids = [f"job-{number}" for number in range(runs)]
        for id in ids:
            ask(root, "tasks", "new", id, "--id", id, "-a", "sleeper")
        until(lambda: sum(run["status"] == "succeeded" for run in ask(root, "runs", "-n", "999")) == runs)
        found = [run for run in ask(root, "runs", "-n", "999") if run["task"] in ids]
        begun = min(parse_moment(run["started"]) for run in found)
        return runs / (max(parse_moment(run["ended"]) for run in found) - begun).total_seconds()


def ask(root: Path, *words: str):  # type: ignore[no-untyped-def]
    """What `ravi WORDS --json` answers."""
    done = subprocess.run([*RAVI, *words, "--json"], cwd=root, env=ENVIRON, check=True, capture_output=True)
    return json.loads(done.stdout)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(2)
    process.wait()


def until(claim) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 300
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--runs", type=int, default=12, help="for each worker")
    asked = parser.parse_args()
    print("| workers | runs a second | of n times one |\n|---:|---:|---:|")
    one = 0.0
    with tempfile.TemporaryDirectory(prefix="ravi-bench-") as place:
        for count in asked.workers:
            rate = measured(count, asked.slots, asked.runs * count, Path(place, str(count)))
            one = one or rate / count
            print(f"| {count} | {rate:.2f} | {rate / count / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
