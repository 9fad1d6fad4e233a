"""The daemon on NATS, with a real server: events go out, doors take what comes in, and it may be away.

The server here is started by the test, as a team's would be; the last tests have the daemon start its own.
"""

import json
import queue
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

import pytest

from ravi.bus.nats import Link
from ravi.bus.server import NatsServer, access
from ravi.errors import TimedOut, Unavailable

DOOR = "ravi.home.in"


@pytest.fixture
def server(tmp_path) -> Iterator[NatsServer]:
    server = NatsServer(str(tmp_path / "nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def link(server) -> Iterator[Link]:
    link = Link(server.address)
    link.start()
    assert link.wait(10)
    yield link
    link.close()


@pytest.fixture
def home(workspace, server):
    """A workspace called home, whose settings name the server."""
    address = server.address
    nats = {"url": list(address.urls), "user": address.user, "password": "$NATS_PASSWORD"}
    workspace.environ["NATS_PASSWORD"] = address.password
    workspace.write("ravi.yaml", f"name: home\nquiet: 50ms\nnats: {json.dumps(nats)}\n")
    workspace.agent("writer", "echo written\n")
    workspace.up()
    return workspace


class Daemon:
    """`ravi up` in the background, killed or ended in order."""

    def __init__(self, workspace) -> None:
        self.workspace = workspace

    def __enter__(self) -> Self:
        self.process = self.workspace.start("up")
        self.lines = []
        while not any("doors are open" in line for line in self.lines):
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, "".join(self.lines)
            self.lines.append(line)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=30)
        self.lines.append(said)
        assert "Traceback" not in said, said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def ask(link: Link, door: str, data: object, *, id: str):
    """A request, asked again under its id until it is answered, as a sender does whose server may go away."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        link.wait(10)
        with suppress(TimedOut, Unavailable):
            return json.loads(
                link.request(f"{DOOR}.{door}", json.dumps(data).encode(), headers={"Nats-Msg-Id": id}, timeout=2.0)
            )
    raise AssertionError("nobody answered")


def test_a_request_at_a_door_is_answered_when_it_is_committed(home, link):
    with Daemon(home):
        told = ask(link, "task", {"title": "Call Bia"}, id="m-1")
        home.git("merge-base", "--is-ancestor", told["commit"], "refs/ravi/main")
        assert home.json("tasks", "show", told["id"])["title"] == "Call Bia"
        assert ask(link, "task", {"title": "Call Bia"}, id="m-1")["id"] == told["id"]
        assert link.publish(f"{DOOR}.task", b'{"title": "Call Bia"}', id="m-1").seq > 0, "it is a PubAck too"
        for data in (
            {"title": "Call Bia"},
            {"title": "Something else"},
            {"title": "Call Bia"},
        ):  # at once, under one id
            assert ask(link, "task", data, id="m-1")["id"] == told["id"]
        note = ask(link, "comment", {"task": told["id"], "text": "she called back"}, id="m-2")
        assert note["task"] == told["id"]
    assert [task["title"] for task in home.json("tasks", "list")] == ["Call Bia"]
    assert [c["text"] for c in home.json("tasks", "show", told["id"])["comments"]] == ["she called back"]


def test_a_task_that_comes_in_is_done_and_every_event_goes_out(home, link):
    heard: queue.Queue[tuple[str, dict]] = queue.Queue()
    link.subscribe("ravi.home.event.>", lambda message: heard.put((message.subject, json.loads(message.data))))
    with Daemon(home):
        told = ask(link, "task", {"title": "Write it", "assignee": "writer"}, id="w-1")
        seen = []
        while not seen or seen[-1][0] != "ravi.home.event.task.closed":
            seen.append(heard.get(timeout=20))
        recorded = {event["id"]: event for event in home.json("events", "list", "-s", told["id"])}
    for subject, event in seen:
        if event["subject"].startswith(told["id"]):
            assert subject == f"ravi.home.event.{event['type']}"
            assert recorded[event["id"]]["type"] == event["type"]
    kinds = [event["type"] for _, event in seen if event["subject"].startswith(told["id"])]
    assert kinds == ["task.created", "run.completed", "task.closed"]


def test_what_happens_while_nobody_is_connected_goes_out_later_in_order(home, link):
    with Daemon(home):
        pass
    for number in range(3):
        home.run("tasks", "new", f"Number {number}", "--id", f"n-{number}")
    heard: queue.Queue[dict] = queue.Queue()
    link.subscribe("ravi.home.event.>", lambda message: heard.put(json.loads(message.data)))
    with Daemon(home):
        assert [heard.get(timeout=20)["subject"] for _ in range(3)] == ["n-0", "n-1", "n-2"]


def test_what_comes_in_while_no_daemon_runs_waits_for_it(home, link):
    with Daemon(home):
        ask(link, "task", {"title": "First"}, id="first")
    for number in range(20):  # the stream itself answers now
        link.publish(f"{DOOR}.task", json.dumps({"title": f"Late {number}"}).encode(), id=f"late-{number}")
    with Daemon(home):
        ask(link, "task", {"title": "Last"}, id="last")
    titles = sorted(task["title"] for task in home.json("tasks", "list", "--all"))
    assert titles == sorted(["First", "Last", *(f"Late {number}" for number in range(20))])


def test_what_cannot_be_taken_is_answered_and_kept_and_holds_up_nobody(home, link):
    dead: queue.Queue[dict] = queue.Queue()
    link.subscribe("ravi.home.dead.>", lambda message: dead.put(json.loads(message.data)))
    with Daemon(home):
        assert "title" in ask(link, "task", {"assignee": "writer"}, id="bad-1")["error"]
        assert ask(link, "prompt", {"agent": "writer", "text": "hi"}, id="bad-2")["code"] == "refused"
        assert "not JSON" in json.loads(link.request(f"{DOOR}.task", b"\xff{", timeout=10))["error"]
        assert ask(link, "task", {"title": "Good"}, id="good")["id"]
        assert [dead.get(timeout=10)["subject"] for _ in range(3)] == ["task", "prompt", "task"]
    reasons = [one["reason"] for one in home.json("events", "dead")]
    assert len(reasons) == 3
    assert "not yet" in reasons[1]


def test_nats_may_die_and_come_back(home, link, server):
    with Daemon(home):
        ask(link, "task", {"title": "Before"}, id="before")
        subprocess.run(["kill", "-9", str(server.pid)], check=True)
        home.run("tasks", "new", "Meanwhile", "--id", "meanwhile")
        assert ask(link, "task", {"title": "After"}, id="after")["id"]
    assert {task["title"] for task in home.json("tasks", "list")} == {"Before", "Meanwhile", "After"}


def test_a_store_that_is_lost_is_noticed_and_told_again(home, link, server, tmp_path):
    with Daemon(home):
        told = ask(link, "task", {"title": "Before"}, id="before")
    server.stop()
    (tmp_path / "nats/store").rename(tmp_path / "lost")
    again = NatsServer(str(tmp_path / "nats"))
    again.start()
    try:
        assert link.wait(10)
        heard: queue.Queue[dict] = queue.Queue()
        link.subscribe("ravi.home.event.>", lambda message: heard.put(json.loads(message.data)))
        with Daemon(home) as daemon:
            while heard.get(timeout=20)["subject"] != told["id"]:
                pass
            ask(link, "task", {"title": "After"}, id="after")
        assert "is a new one" in "".join(daemon.lines)
    finally:
        again.stop()


def test_without_a_server_named_the_daemon_starts_its_own(workspace, until):
    workspace.write("ravi.yaml", "name: home\nquiet: 50ms\n")
    workspace.environ.pop("NATS_URL", None)
    with Daemon(workspace):
        nats = workspace.json("status")["daemon"]["nats"]
        assert (nats["connected"], nats["managed"]) == (True, True)
        assert nats["url"].startswith("nats://127.0.0.1:")
        address = access(str(workspace.root / ".ravi/nats"))
        assert address is not None
        link = Link(address)
        link.start()
        assert link.wait(10)
        assert ask(link, "task", {"title": "In"}, id="in")["id"]
        link.close()
        assert workspace.json("events", "replay", "--since", "HEAD~1")["replayed"] >= 1
    until(lambda: subprocess.run(["kill", "-0", str(nats["pid"])], stderr=subprocess.DEVNULL).returncode)
