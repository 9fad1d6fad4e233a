"""Half an hour under a steady load: nothing may grow but the history.

python -m tests.bench.soak [--minutes 30] [--rate 50] [--tasks 1000]

So many messages a second come in at the doors: raw events, comments, and now and then a task for an agent. Every half
minute the daemon is looked at: memory, open files, threads, children, lock files, and how long the answers took.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ravi.bus.nats import Link
from ravi.errors import TimedOut, Unavailable
from tests.bench.bench_cli import ENVIRON
from tests.bench.bench_daemon import UP, cpu, daemon, memory
from tests.bench.bench_nats import PLAY, ask, connected
from tests.bench.made import git, make_workspace

SENDERS = 16
EVERY = 30.0  # seconds between looks


class Load:
    """Senders that keep to a rate together, and how long each answer took since the last look."""

    def __init__(self, link: Link, rate: float, task: str) -> None:
        self._link, self._rate, self._task = link, rate, task
        self._lock = threading.Lock()
        self._taken: list[float] = []
        self._ending = threading.Event()
        self.sent = self.unanswered = 0
        self._begun = time.monotonic()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> list[float]:
        with self._lock:
            taken, self._taken = self._taken, []
        return taken

    def _send(self, sender: int) -> None:
        for count in range(10**9):
            due = self._begun + (count * SENDERS + sender) / self._rate
            if self._ending.wait(max(0.0, due - time.monotonic())):
                return
            begun = time.monotonic()
            is_answered = self._say(sender, count)
            with self._lock:
                self.sent += 1
                self.unanswered += not is_answered
                self._taken.append((time.monotonic() - begun) * 1000)

    def _say(self, sender: int, count: int) -> bool:
        id = f"soak-{sender}-{count}"
        door, data = "event", {"n": count}
        if count % 10 == 0:
            door, data = "comment", {"task": self._task, "text": id}
        if sender == 0 and count % 50 == 0:
            door, data = "task", {"title": id, "assignee": "player"}
        try:
            told = self._link.request(
                f"ravi.bench.in.{door}", json.dumps(data).encode(), headers={"Nats-Msg-Id": id}, timeout=30
            )
        except (TimedOut, Unavailable):
            return False
        return "error" not in json.loads(told)


def looks(pid: int, root: Path, load: Load, minutes: float) -> Iterator[dict[str, float]]:
    """The daemon, every half minute."""
    begun, spent = time.monotonic(), cpu(pid)
    while time.monotonic() < begun + minutes * 60:
        time.sleep(EVERY)
        taken, now = sorted(load.taken()), cpu(pid)
        yield {
            "minute": (time.monotonic() - begun) / 60,
            "answers": len(taken),
            "p50 ms": statistics.median(taken) if taken else 0,
            "p99 ms": taken[int(len(taken) * 0.99)] if taken else 0,
            "cpu %": (now - spent) / EVERY * 100,
            "MB": memory(pid),
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
            "children": len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
            "locks": sum(1 for _ in (root / ".git").rglob("*.lock") if "ravi" not in _.parts),
            "packs": len(list((root / ".git/objects/pack").glob("*.pack"))),
            "repository MB": sum(f.stat().st_size for f in (root / ".git").rglob("*") if f.is_file()) / 1e6,
        }
        spent = now


def main() -> None:
    """Print a line for every look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--tasks", type=int, default=1_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ravi-soak-") as place:
        root = make_workspace(Path(place, "w"), asked.tasks).root
        (root / "agents/player").mkdir()
        (root / "agents/player/AGENT.md").write_text(f"---\n{PLAY}---\nPlay.\n")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "workspace: an agent that plays")
        subprocess.run([*UP, "--until-idle"], cwd=root, env=ENVIRON, check=True, capture_output=True)
        with daemon(root) as process:
            link = connected(root)
            load = Load(link, asked.rate, ask(link, "the task that is talked about")["id"])
            load.start()
            for number, look in enumerate(looks(process.pid, root, load, asked.minutes)):
                if number == 0:
                    print("| " + " | ".join(look) + " |\n|" + "---:|" * len(look))
                print("| " + " | ".join(f"{value:,.1f}" for value in look.values()) + " |", flush=True)
            load.close()
            link.close()
            print(f"\nsent {load.sent:,}, not answered {load.unanswered:,}")
        print(git(root, "fsck", "--no-dangling") or "git fsck: nothing to say")


if __name__ == "__main__":
    main()
