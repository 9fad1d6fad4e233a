"""Workers, with a real NATS server, a real bare remote and real processes: other clones carry out the leader's runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ravi.bus.server import NatsServer

Clone = Any  # a Workspace of tests/conftest.py


class Process:
    """`ravi …` in the background, and what it says."""

    def __init__(self, words: list[str], cwd: Path, environ: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ravi", *words], cwd=cwd, env=environ,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self) -> str:
        """End it in order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.said()) from None
        assert "Traceback" not in self.said(), self.said()
        return self.said()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(str(tmp_path / "nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hub(tmp_path: Path, environ: dict[str, str]) -> Path:
    place = tmp_path / "hub.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(place)], check=True, env=environ)
    return place


@pytest.fixture
def home(workspace: Clone, server: NatsServer, hub: Path) -> Clone:
    """The clone that leads. It carries out nothing itself; `settings` may say otherwise."""
    address = server.address
    workspace.environ["NATS_PASSWORD"] = address.password
    nats = {"url": list(address.urls), "user": address.user, "password": "$NATS_PASSWORD"}
    workspace.write("ravi.yaml", f"name: home\nquiet: 50ms\nmax_runs: 0\nnats: {json.dumps(nats)}\n")
    workspace.git("remote", "add", "origin", str(hub))
    workspace.git("add", ".")
    workspace.git("commit", "-q", "-m", "settings")
    workspace.json("sync")
    return workspace


@pytest.fixture
def start(home: Clone, hub: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `ravi up` in the leader, or a worker by its name."""
    begun: list[Process] = []

    def begin(name: str, *words: str, place: Path | None = None) -> Process:
        log = tmp_path / f"{name}.{len(begun)}.log"
        if name == "leader":
            process = Process(["up"], place or home.root, home.environ, log)
        else:
            told = ["worker", "--name", name, "--remote", str(hub), *words, str(tmp_path / name)]
            process = Process(told, tmp_path, home.environ, log)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        print(f"--- {process.log.name}\n{process.said()}")  # pytest shows it when a test fails
    faults = []
    for process in reversed(begun):
        try:
            process.end()
        except AssertionError as fault:
            faults.append(fault)
    assert not faults, faults


def runs(home: Clone) -> dict[str, tuple[str, str]]:
    """Each run's status, and the worker that it was given to."""
    return {run["id"]: (run["status"], run["worker"] or "") for run in home.json("runs")}


def statuses(home: Clone) -> dict[str, str]:
    return {task["id"]: task["status"] for task in home.json("tasks", "--all")}


def closed(home: Clone, *ids: str) -> Callable[[], bool]:
    def all_done() -> bool:
        told = statuses(home)
        return all(told.get(id) == "done" for id in ids)

    return all_done


def settled(home: Clone, until: Callable[..., Any]) -> None:
    """Everything is written out, and no run is left at the remote."""
    until(lambda: home.git("rev-parse", "refs/ravi/main") == home.git("rev-parse", "refs/ravi/published"))
    assert home.is_clean()


def test_two_workers_do_the_work_of_ten_tasks_each_once(home, start, until, tmp_path):
    place = tmp_path / "marks"
    home.agent(
        "writer", f'echo x >> {place}.$RAVI_TASK\nsleep 0.5\necho "$RAVI_TASK" > outputs/r.txt\n', "concurrency: 9\n"
    )
    ids = [f"t-{number}" for number in range(10)]
    for id in ids:
        home.task(id, "writer")
    start("left", "--slots", "2")
    start("right", "--slots", "2")
    start("leader")
    until(closed(home, *ids), 90)
    told = runs(home)
    assert {status for status, _ in told.values()} == {"succeeded"}
    assert {worker for _, worker in told.values()} == {"left", "right"}
    assert sorted(told) == [f"{id}.1" for id in ids]
    assert [Path(f"{place}.{id}").read_text() for id in ids] == ["x\n"] * 10
    settled(home, until)
    assert [home.read(f"tasks/{id}/outputs/r.txt") for id in ids] == [f"{id}\n" for id in ids]
    assert [row["name"] for row in home.json("workers")] == ["left", "right"]


def test_what_an_agent_says_and_orders_at_a_worker_is_there_before_its_end(home, start, until):
    home.agent("part", "echo part > outputs/part.txt\n")
    ours = f"env: {{PYTHONPATH: {home.environ['PYTHONPATH']}}}\n"  # else it is whichever ravi is installed
    home.agent(
        "boss",
        'if [ -z "$(ravi tasks list --all --json | grep made-part)" ]; then\n'
        "ravi tasks new 'Made part' -a part && ravi tasks comment $RAVI_TASK 'I need a part'\n"
        "else ravi tasks done $RAVI_TASK --summary 'with its part'; fi\n",
        ours,
    )
    home.task("whole", "boss")
    start("left")
    leader = start("leader")
    until(closed(home, "whole"), 60)
    told = home.json("tasks", "show", "whole")
    assert told["summary"] == "with its part", leader.said()
    assert "I need a part" in [comment["text"].strip() for comment in told["comments"]]
    children = [id for id in statuses(home) if id.startswith("made-part")]
    assert len(children) == 1
    assert [status for status, _ in runs(home).values()] == ["succeeded"] * 3
    settled(home, until)


def test_a_run_of_a_lost_worker_is_tried_again_and_a_late_end_changes_nothing(home, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent(
        "slow",
        f"echo x >> {marks}.$RAVI_TASK\n"
        f"while [ -e {marks}.hold ] && [ $(wc -l < {marks}.$RAVI_TASK) = 1 ]; do sleep 0.1; done\n"
        'echo "$RAVI_RUN" > outputs/by.txt\n',
        "concurrency: 4\n",
    )
    Path(f"{marks}.hold").touch()
    home.task("one", "slow")
    home.task("two", "slow")
    killed, stopped = start("killed", "--slots", "1"), start("stopped", "--slots", "1")
    start("leader")
    until(lambda: Path(f"{marks}.one").exists() and Path(f"{marks}.two").exists(), 60)
    assert {worker for _, worker in runs(home).values()} == {"killed", "stopped"}
    killed.kill()
    stopped.signal(signal.SIGSTOP)
    start("third", "--slots", "2")
    until(closed(home, "one", "two"), 60)
    Path(f"{marks}.hold").unlink()
    told = runs(home)
    assert (told["one.1"][0], told["two.1"][0]) == ("interrupted", "interrupted")
    assert (told["one.2"], told["two.2"]) == (("succeeded", "third"), ("succeeded", "third"))
    before = home.git("rev-parse", "refs/ravi/main")
    stopped.signal(signal.SIGCONT)
    until(lambda: "too late" in stopped.said() or "given up" in stopped.said(), 30)
    assert home.git("rev-parse", "refs/ravi/main") == before
    home.task("three", "slow")
    home.task("four", "slow")
    home.task("five", "slow")
    until(closed(home, "three", "four", "five"), 60)
    assert "stopped" in {worker for _, worker in runs(home).values()}
    settled(home, until)
    assert home.read("tasks/one/outputs/by.txt") == "one.2\n"


def test_a_leader_that_restarts_waits_for_what_workers_have(home, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent(
        "slow",
        f"echo x >> {marks}.$RAVI_TASK\nwhile [ -e {marks}.hold.$RAVI_TASK ]; do sleep 0.1; done\necho done\n",
        "concurrency: 4\n",
    )
    for id in ("one", "two", "three"):
        Path(f"{marks}.hold.{id}").touch()
        home.task(id, "slow")
    worker = start("left", "--slots", "3")
    first = start("leader")
    until(lambda: all(Path(f"{marks}.{id}").exists() for id in ("one", "two", "three")), 60)
    first.kill()
    Path(f"{marks}.hold.one").unlink()  # it ends while nobody leads
    until(lambda: "run one.1: completed" in worker.said(), 30)
    second = start("leader")
    until(closed(home, "one"), 30)
    second.end()
    Path(f"{marks}.hold.two").unlink()
    start("leader")
    until(closed(home, "two"), 30)
    home.run("runs", "stop", "three.1")
    until(lambda: statuses(home)["three"] == "blocked", 30)
    assert runs(home) == {
        "one.1": ("succeeded", "left"),
        "two.1": ("succeeded", "left"),
        "three.1": ("cancelled", "left"),
    }
    assert [Path(f"{marks}.{id}").read_text() for id in ("one", "two", "three")] == ["x\n"] * 3
    assert "stopped by Ann" in home.json("tasks", "show", "three")["blocker"]


def test_another_clone_that_takes_over_waits_for_what_workers_have(home, hub, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent("slow", f"echo x >> {marks}\nwhile [ -e {marks}.hold ]; do sleep 0.1; done\necho d > outputs/d.txt\n")
    Path(f"{marks}.hold").touch()
    home.task("one", "slow")
    start("left")
    first = start("leader")
    until(marks.exists, 60)
    first.kill()
    bob = type(home)(tmp_path / "bob", home.environ)
    subprocess.run(["git", "clone", "--quiet", str(hub), str(bob.root)], check=True, env=home.environ)
    assert bob.json("sync", "--lead")["took_over"] is True
    second = start("leader", place=bob.root)
    until(lambda: "worker left on" in second.said(), 30)
    Path(f"{marks}.hold").unlink()
    until(closed(bob, "one"), 30)
    assert runs(bob) == {"one.1": ("succeeded", "left")}
    assert marks.read_text() == "x\n"
    third = start("leader")  # the former one comes back
    until(lambda: "leads" in third.said(), 30)
    bob.run("sync")
    home.run("sync")
    assert runs(home) == {"one.1": ("succeeded", "left")}


def test_a_drained_worker_finishes_what_it_has_and_takes_no_more(home, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent("slow", f"touch {marks}.$RAVI_TASK\nwhile [ -e {marks}.hold ]; do sleep 0.1; done\n", "concurrency: 4\n")
    Path(f"{marks}.hold").touch()
    home.task("one", "slow")
    worker = start("left", "--slots", "4")
    leader = start("leader")
    until(lambda: Path(f"{marks}.one").exists(), 60)
    home.run("workers", "drain", "left")
    until(lambda: [row["draining"] for row in home.json("workers")] == [True])
    assert home.json("workers")[0]["runs"] == ["one.1"]
    until(lambda: "worker left takes no more runs" in leader.said())
    home.task("two", "slow")
    until(lambda: statuses(home).get("two") == "open")
    Path(f"{marks}.hold").unlink()
    assert worker.process.wait(30) == 0
    assert "1 runs, drained" in worker.said()
    until(closed(home, "one"), 30)
    assert not Path(f"{marks}.two").exists()
    assert home.json("workers") == []
    assert "no worker `left` lives" in home.run("workers", "drain", "left", code=4).err
    start("right")
    until(closed(home, "two"), 60)


def test_nats_and_the_remote_may_be_away_while_a_run_goes_on(home, hub, server, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent("slow", f"echo x >> {marks}\nwhile [ -e {marks}.hold ]; do sleep 0.1; done\necho d > outputs/d.txt\n")
    Path(f"{marks}.hold").touch()
    home.task("one", "slow")
    worker = start("left")
    leader = start("leader")
    until(marks.exists, 60)
    subprocess.run(["kill", "-9", str(server.pid)], check=True)
    hub.rename(tmp_path / "elsewhere.git")
    Path(f"{marks}.hold").unlink()
    until(lambda: "remote: " in worker.said() and "they have to wait" in leader.said(), 60)
    (tmp_path / "elsewhere.git").rename(hub)
    until(closed(home, "one"), 60)
    assert runs(home) == {"one.1": ("succeeded", "left")}
    assert marks.read_text() == "x\n"


def test_a_worker_that_is_ended_hands_its_run_back(home, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.agent("slow", f"echo x >> {marks}\nwhile [ -e {marks}.hold ]; do sleep 0.1; done\n")
    Path(f"{marks}.hold").touch()
    home.task("one", "slow")
    worker = start("left")
    start("leader")
    until(marks.exists, 60)
    start("right")
    worker.end()
    until(lambda: runs(home).get("one.2", ("", ""))[1] == "right", 30)
    assert runs(home)["one.1"] == ("interrupted", "left")
    Path(f"{marks}.hold").unlink()
    until(closed(home, "one"), 30)


def test_with_room_of_its_own_the_leader_fills_that_first(home, start, until, tmp_path):
    marks = tmp_path / "marks"
    home.write("ravi.yaml", home.read("ravi.yaml").replace("max_runs: 0", "max_runs: 1"))
    home.agent("slow", f"touch {marks}.$RAVI_TASK\nwhile [ -e {marks}.hold ]; do sleep 0.1; done\n", "concurrency: 9\n")
    Path(f"{marks}.hold").touch()
    start("left", "--slots", "1")
    leader = start("leader")
    until(lambda: "worker left on" in leader.said(), 30)
    for id in ("one", "two", "three"):
        home.task(id, "slow")
    until(lambda: len({path.name for path in tmp_path.glob("marks.*")} - {"marks.hold"}) == 2, 30)
    assert sorted(worker for _, worker in runs(home).values()) == ["", "left"]
    Path(f"{marks}.hold").unlink()
    until(closed(home, "one", "two", "three"), 60)


def test_a_worker_says_what_keeps_it_from_working(home, hub, start, until, tmp_path):
    def words(*more: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ravi", "worker", *more], cwd=cwd, env=home.environ, capture_output=True, text=True
        )
        assert done.returncode
        return done.stderr

    assert "--remote URL DIR" in words(str(tmp_path / "empty"))
    assert "this clone leads" in words(str(home.root))
    first = start("left")
    until(lambda: "takes orders" in first.said(), 30)
    os.makedirs(tmp_path / "second")
    assert "another worker is called `left`" in words("--name", "left", "--remote", str(hub), str(tmp_path / "second"))
    assert "is led by" in words("--name", "other", str(tmp_path / "left"))
