"""P4, as far as there are channels: from a message on NATS to its commit, and to the end of the run that it asks for.

python -m tests.bench.bench_nats [--tasks 1000 10000] [--messages 300] [--quick]

A message at the door `in.task` is answered when it is committed. With an agent as its assignee, a run starts, and its
end comes back as an event on NATS; the agent is `scripted`, and says one line. Floor: what JetStream alone takes to
acknowledge a message that it synced.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ravi.bus.nats import Link, StreamSpec
from ravi.bus.server import access
from ravi.errors import TimedOut, Unavailable
from tests.bench.bench_cli import ENVIRON
from tests.bench.bench_daemon import UP, daemon
from tests.bench.made import git, make_workspace

SENDERS = 32
PLAY = "runner: scripted\nscript: [{say: done}]\nconcurrency: 100\n"


def measured(tasks: int, messages: int, place: Path) -> dict[str, float]:
    """All figures of one size, in milliseconds or messages a second."""
    root = make_workspace(place, tasks).root
    (root / "agents/player").mkdir()
    (root / "agents/player/AGENT.md").write_text(f"---\n{PLAY}---\nPlay.\n")
    with (root / "ravi.yaml").open("a") as settings:
        settings.write("max_runs: 100\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "workspace: an agent that plays")
    subprocess.run([*UP, "--until-idle"], cwd=root, env=ENVIRON, check=True, capture_output=True)
    found: dict[str, float] = {}
    with daemon(root):
        link = connected(root)
        try:
            link.ensure(StreamSpec("FLOOR", ("floor.>",)))
            put(found, "floor: JetStream acknowledges", times(lambda n: link.publish("floor.x", b"x" * 300), messages))
            ask(link, "warm")
            put(found, "message → committed and answered", times(lambda n: ask(link, f"one-{n}"), messages))
            found[f"messages a second, {SENDERS} senders"] = rate(link, messages * 2)
            put(found, "message → run over, told on NATS", rounds(link, messages // 5))
        finally:
            link.close()
    return found


def connected(root: Path) -> Link:
    """A link to the daemon's own server, once the doors are open."""
    end = time.monotonic() + 120
    while (address := access(str(root / ".ravi/nats"))) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    link = Link(address)
    link.start()
    while time.monotonic() < end:
        link.wait(10)
        try:
            ask(link, "first")
        except (TimedOut, Unavailable):
            time.sleep(0.05)
        else:
            return link
    raise TimeoutError


def ask(link: Link, id: str, **keys: str) -> dict[str, str]:
    data = json.dumps({"title": f"Message {id}", **keys}).encode()
    answer: dict[str, str] = json.loads(
        link.request("ravi.bench.in.task", data, headers={"Nats-Msg-Id": id}, timeout=20)
    )
    assert "id" in answer, answer
    return answer


def times(call: Callable[[int], object], count: int) -> list[float]:
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def rate(link: Link, messages: int) -> float:
    """Messages a second that many senders get answered, each one after the other."""

    def send(sender: int) -> None:
        for number in range(messages // SENDERS):
            ask(link, f"many-{sender}-{number}")

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return messages // SENDERS * SENDERS / (time.perf_counter() - begun)


def rounds(link: Link, count: int) -> list[float]:
    """Milliseconds from a message to the event that its task is closed, one after the other."""
    closed = threading.Condition()
    seen: dict[str, float] = {}

    def heard(message: object) -> None:
        with closed:
            seen[json.loads(message.data)["subject"]] = time.perf_counter()  # type: ignore[attr-defined]
            closed.notify_all()

    taken = []
    listening = link.subscribe("ravi.bench.event.task.closed", heard)
    for number in range(count):
        begun = time.perf_counter()
        id = ask(link, f"played-{number}", assignee="player")["id"]
        with closed:
            assert closed.wait_for(lambda task=id: task in seen, timeout=60), id
            taken.append((seen[id] - begun) * 1000)
    listening.close()
    return taken


def put(found: dict[str, float], name: str, taken: list[float]) -> None:
    found[f"{name}, p50 ms"] = statistics.median(taken)
    found[f"{name}, p99 ms"] = sorted(taken)[int(len(taken) * 0.99)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="small, for a first look")
    asked = parser.parse_args()
    sizes = [200] if asked.quick else asked.tasks
    with tempfile.TemporaryDirectory(prefix="ravi-bench-") as place:
        found = {size: measured(size, 60 if asked.quick else asked.messages, Path(place, str(size))) for size in sizes}
    print("| | " + " | ".join(f"{size:,} tasks" for size in found) + " |")
    print("|---|" + "---:|" * len(found))
    for name in next(iter(found.values())):
        print(f"| {name} | " + " | ".join(f"{one[name]:,.1f}" for one in found.values()) + " |")


if __name__ == "__main__":
    sys.exit(main())
