"""NATS and the daemon harmed while senders speak to the doors: what was answered is in git, once, and is told once.

The server is a real one that the test starts, as a team's would be, or the daemon's own. The checks read git, and the
streams, and ask ravi only which events its main line holds.
"""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pytest
from harness import MAIN, Daemon, Promises, blobs, chance, check, eventually, git, percentile, ref, size, tree

from ravi.app import App
from ravi.bus.nats import Address, Link
from ravi.bus.server import access, find_server
from ravi.errors import RaviError
from ravi.store.history import MainLine

pytestmark = pytest.mark.fault

DOOR, EVENTS, IN = "ravi.home.in", "RAVI_HOME_EVENTS", "RAVI_HOME_IN"
TOLD = "refs/ravi/cursor/nats"
WORD = re.compile(rb"said-\d+-\d+-[0-9a-f]{8}")
SENDERS = 8


class Nats:
    """A nats-server whose store is the test's to hurt."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        folder.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.conf = folder / "nats.conf"
        self.conf.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            f'jetstream {{\n  store_dir: "{self.store}"\n  sync_interval: always\n}}\n'
        )
        self.address = Address((f"nats://127.0.0.1:{self.port}",))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([find_server().path, "-c", self.conf], stdout=log, stderr=log)
        eventually(self._is_there, said=(self.folder / "log").read_text)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _is_there(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as wire:
            return wire.recv(4) == b"INFO"
        return False


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    with Nats(tmp_path / "nats") as nats:
        yield nats


def named_home(workspace, nats: Nats | None):
    """The workspace, called home, on a server of the test's or on the daemon's own; with one task to talk about."""
    workspace.environ.pop("NATS_URL", None)
    where = "" if nats is None else f"nats: {nats.address.urls[0]}\n"
    workspace.write("ravi.yaml", f"name: home\nquiet: 50ms\n{where}")
    workspace.run("tasks", "new", "Talk", "--id", "talk")
    workspace.run("up", "--until-idle")
    return workspace


@pytest.fixture
def home(workspace, nats):
    return named_home(workspace, nats)


@pytest.fixture
def link(nats) -> Iterator[Link]:
    with linked(nats.address) as link:
        yield link


@contextmanager
def linked(address: Address) -> Iterator[Link]:
    """A link for the length of a `with`."""
    link = Link(address)
    link.start()
    try:
        yield link
    finally:
        link.close()


class Senders:
    """Programs that say something at a door, by request or by publish, again and again until they are answered."""

    def __init__(self, link: Link, *, count: int = SENDERS, patience: float = 0.3) -> None:
        self.link, self.patience = link, patience
        self.answered: dict[str, float] = {}  # a word -> the seconds until the answer
        self.said: list[str] = []
        self.permitted = 0
        self.again = 0
        self.faults: list[BaseException] = []
        self._permits: list[queue.Queue[bool]] = [queue.Queue() for _ in range(count)]
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end = time.monotonic() + (5 if kind else 60)  # whoever is not answered by then is told so
        for permits in self._permits:
            permits.put(False)
        for thread in self._threads:
            thread.join()
        if self.faults and kind is None:
            raise self.faults[0]

    _end = float("inf")

    def permit(self, each: int) -> None:
        """Let each sender say so many things more."""
        self.permitted += each * len(self._permits)
        for _ in range(each):
            for permits in self._permits:
                permits.put(True)

    @property
    def open(self) -> int:
        return self.permitted - len(self.answered)

    def _work(self, number: int) -> None:
        rng, count = chance("sender", number), 0
        try:
            while self._permits[number].get():
                count += 1
                word = f"said-{number}-{count}-{rng.getrandbits(32):08x}"
                self.said.append(word)
                self._say(word, rng.choice(("task", "comment", "event")), rng.choice((self._ask, self._store)))
        except BaseException as fault:
            self.faults.append(fault)

    def _say(self, word: str, door: str, by: Callable[[str, bytes, str], dict]) -> None:
        told = {
            "task": {"title": word, "status": "draft"},
            "comment": {"task": "talk", "text": word},
            "event": {"specversion": "1.0", "id": word, "type": "build.done", "source": "test", "data": {"word": word}},
        }[door]
        began = time.monotonic()
        while True:
            self.link.wait(1.0)
            try:
                answer = by(door, json.dumps(told).encode(), word)
            except RaviError:
                self.again += 1
                assert time.monotonic() < self._end, f"{word} at {door} was never answered"
                time.sleep(0.01)
                continue
            assert "error" not in answer, answer
            self.answered[word] = time.monotonic() - began
            return

    def _ask(self, door: str, data: bytes, id: str) -> dict:
        return json.loads(self.link.request(f"{DOOR}.{door}", data, headers={"Nats-Msg-Id": id}, timeout=self.patience))

    def _store(self, door: str, data: bytes, id: str) -> dict:
        return asdict(self.link.publish(f"{DOOR}.{door}", data, id=id, timeout=self.patience))


@dataclass
class Counts:
    """What git and the streams hold of what senders were answered."""

    acknowledged: int
    lost: int
    twice: int
    events: int
    untold: int
    told_twice: int
    told_of_nothing: int


def counted(workspace, senders: Senders) -> Counts:
    """How often git holds each word, by the kind of place it belongs to."""
    found: Counter[str] = Counter()
    files = blobs(workspace)
    for path, oid in tree(workspace).items():
        if path.startswith("tasks/") and (path.endswith("/TASK.md") or "/comments/" in path):
            found.update({word.decode() for word in WORD.findall(files[oid])})
    for message in git(workspace, "log", "--format=%B%x00", MAIN).split(b"\0"):
        if message.strip().startswith(b"event "):
            found.update({word.decode() for word in WORD.findall(message)})
    recorded = set(main_line_events(workspace))
    told = Counter(json.loads(data)["id"] for data in stored(senders.link))
    return Counts(
        acknowledged=len(senders.answered),
        lost=sum(not found[word] for word in senders.answered),
        twice=sum(found[word] > 1 for word in senders.said),
        events=len(recorded),
        untold=len(recorded - told.keys()),
        told_twice=sum(times > 1 for times in told.values()),
        told_of_nothing=len(told.keys() - recorded),
    )


def main_line_events(workspace) -> list[str]:
    """The ids of all events of the main line since the backbone began to tell, in order."""
    app = App(str(workspace.root), workspace.environ)
    try:
        line, here, found = MainLine(app.repository), (workspace.root.parent / "start").read_text(), []
        while commits := line.commits_after(here, 64):
            found += [event.id for _, events in commits for event in events]
            here = commits[-1][0]
        return found
    finally:
        app.close()


def stored(link: Link) -> Iterator[bytes]:
    """Every message of the stream of events."""
    after = 0
    while message := link.read(EVENTS, after):
        after = message.seq
        yield message.data


def until_open(daemon: Daemon) -> None:
    """Wait until the doors are open: from then on it is ravi who answers, and not the stream."""
    daemon.until(lambda: "doors are open" in daemon.said())


def begin(workspace) -> None:
    """Have the backbone start, and remember from where it tells."""
    with Daemon(workspace) as daemon:
        until_open(daemon)
        (workspace.root.parent / "start").write_text(ref(workspace, TOLD))
        assert daemon.stop() == 0


def is_settled(workspace, senders: Senders) -> bool:
    """True when everybody has an answer, no door has anything to do, and all is told."""
    with suppress(RaviError):  # it is just away
        waiting = senders.link.state(IN) if not senders.open else None
        return waiting is not None and not waiting.messages and ref(workspace, TOLD) == ref(workspace, MAIN)
    return False


KILLED = ("daemon", "server", "both")


@pytest.mark.parametrize("killed", KILLED)
def test_the_daemon_or_nats_is_killed_at_any_moment(killed: str, workspace, tmp_path, figures):
    """`both` is the daemon's own server, which dies with it."""
    rounds = size({"daemon": 16, "server": 10, "both": 8}[killed], {"daemon": 1000, "server": 500, "both": 500}[killed])
    promises, rng = Promises(), chance("nats", killed)
    recovered: list[float] = []
    with ExitStack() as stack:
        nats = None if killed == "both" else stack.enter_context(Nats(tmp_path / "nats"))
        home = named_home(workspace, nats)
        begin(home)
        address = nats.address if nats else access(str(home.root / ".ravi/nats"))
        assert address is not None
        link = stack.enter_context(linked(address))
        senders = stack.enter_context(Senders(link))
        daemon = stack.enter_context(Daemon(home))
        until_open(daemon)
        for number in range(rounds):
            senders.permit(2)
            before, began = len(senders.answered), time.monotonic()
            if number % 2 == 0:
                daemon.until(lambda before=before: len(senders.answered) > before)
                recovered.append(time.monotonic() - began)
                time.sleep(rng.uniform(0, 0.4))
            else:  # also while it gets ready
                time.sleep(rng.uniform(0, 1.2))
            if nats is not None and killed == "server":
                nats.kill()
                time.sleep(rng.uniform(0, 0.3))
                nats.start()
            else:
                daemon.kill()
                promises.complaints += [daemon.said()] if "Traceback" in daemon.said() else []
                daemon = stack.enter_context(Daemon(home))
        daemon.until(lambda: is_settled(home, senders))
        found = counted(home, senders)
        assert daemon.stop() == 0, daemon.said()
        promises.complaints += [daemon.said()] if "Traceback" in daemon.said() else []
    check(home, promises)
    figures(kills=rounds, again=senders.again, **vars(found), **took("recovery", recovered))
    assert_nothing_lost(found)


def assert_nothing_lost(found: Counts) -> None:
    assert (found.lost, found.twice, found.untold, found.told_twice, found.told_of_nothing) == (0, 0, 0, 0, 0), found


def took(what: str, seconds: list[float]) -> dict[str, str]:
    return {f"{what}_p50": f"{percentile(seconds, 0.5):.2f} s", f"{what}_p99": f"{percentile(seconds, 0.99):.2f} s"}


def test_nats_freezes_and_thaws(home, nats, link, figures):
    rounds, recovered, rng = size(2, 50), [], chance("freezes")
    begin(home)
    with Senders(link) as senders, Daemon(home) as daemon:
        for _ in range(rounds):
            senders.permit(2)
            daemon.until(lambda: len(senders.answered) > 0)
            nats.signal(signal.SIGSTOP)
            senders.permit(2)
            time.sleep(rng.uniform(0.5, 6.0))  # on both sides of the time after which a frozen server is left
            before, began = len(senders.answered), time.monotonic()
            nats.signal(signal.SIGCONT)
            daemon.until(lambda before=before: len(senders.answered) > before)
            recovered.append(time.monotonic() - began)
        daemon.until(lambda: is_settled(home, senders))
        found = counted(home, senders)
        assert daemon.stop() == 0, daemon.said()
    check(home, Promises())
    figures(freezes=rounds, again=senders.again, **vars(found), **took("recovery", recovered))
    assert_nothing_lost(found)


def test_the_daemon_is_stopped_with_messages_in_flight_and_continued(home, link, figures):
    """The server hands them out again meanwhile, and the daemon wakes up to find them twice."""
    rounds, redelivered = size(3, 60), 0
    begin(home)
    with Senders(link) as senders, Daemon(home) as daemon:
        until_open(daemon)
        for number in range(rounds):
            senders.permit(6)
            daemon.until(lambda number=number: len(senders.answered) > number * 6 * SENDERS + 4)
            daemon.process.send_signal(signal.SIGSTOP)
            waits = hasten(link, 0.5)
            with suppress(AssertionError):  # there may be nothing in flight, or nobody has asked for more
                eventually(lambda: in_flight(link)["num_redelivered"], 3)
            redelivered += in_flight(link)["num_redelivered"]
            daemon.process.send_signal(signal.SIGCONT)
            hasten(link, waits)
            daemon.until(lambda: senders.open == 0)
        daemon.until(lambda: is_settled(home, senders))
        found = counted(home, senders)
        assert daemon.stop() == 0, daemon.said()
    check(home, Promises())
    figures(stops=rounds, redelivered=redelivered, again=senders.again, **vars(found))
    assert_nothing_lost(found)
    assert redelivered, "nothing was ever in flight"


def in_flight(link: Link) -> dict:
    return json.loads(link.request(f"$JS.API.CONSUMER.INFO.{IN}.ravi-doors", b""))


def hasten(link: Link, seconds: float) -> float:
    """Let the time after which the server hands out again be another one; returns what it was."""
    config = in_flight(link)["config"]
    told = {"stream_name": IN, "action": "update", "config": {**config, "ack_wait": round(seconds * 1e9)}}
    answer = json.loads(link.request(f"$JS.API.CONSUMER.CREATE.{IN}.ravi-doors", json.dumps(told).encode()))
    assert "error" not in answer, answer
    return config["ack_wait"] / 1e9


def drop(nats: Nats, copy: Path) -> None:
    shutil.rmtree(nats.store)


def roll_back(nats: Nats, copy: Path) -> None:
    shutil.rmtree(nats.store)
    shutil.copytree(copy, nats.store)


def flip(nats: Nats, copy: Path) -> None:
    """One bit in the middle of what the stream of events has last written."""
    block = newest_block(nats)
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 4
    block.write_bytes(data)


def truncate(nats: Nats, copy: Path) -> None:
    block = newest_block(nats)
    os.truncate(block, block.stat().st_size // 2 + 3)


def newest_block(nats: Nats) -> Path:
    """The file; the summary of it goes, as it does when the server has no time to write one."""
    folder = next(nats.store.rglob(f"{EVENTS}/msgs"))
    (folder / "index.db").unlink(missing_ok=True)
    return max(folder.glob("*.blk"), key=lambda path: int(path.stem))


HARMS = {"dropped": drop, "rolled back": roll_back, "a bit flipped": flip, "truncated": truncate}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_store_that_is_hurt_is_noticed_and_told_again(harm, home, nats, link, tmp_path, figures):
    """While the daemon runs, and while it does not."""
    begin(home)
    noticed, again, plain = 0, 0, set()
    rounds = size(1, 10)
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(home))
        senders = stack.enter_context(Senders(link))
        for number in range(2 * rounds):
            until_open(daemon)
            plain.add(say_without_an_id(link, f"plain-{number}"))
            senders.permit(1)
            daemon.until(lambda: is_settled(home, senders))
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(nats.store, tmp_path / "copy")
            senders.permit(2)
            daemon.until(lambda: is_settled(home, senders))
            is_down = number % 2 == 1
            if is_down:
                daemon.kill()
            nats.kill()
            harm(nats, tmp_path / "copy")
            nats.start()
            if is_down:
                daemon = stack.enter_context(Daemon(home))
            again += until_told_again(daemon, times=1 if is_down or not number else 2)
            noticed += 1
            if is_down:
                plain.add(say_without_an_id(link, f"plain-down-{number}"))
        senders.permit(1)
        daemon.until(lambda: is_settled(home, senders))
        found = counted(home, senders)
        assert daemon.stop() == 0, daemon.said()
    check(home, Promises())
    figures(harms=2 * rounds, noticed=noticed, told_again=again, **vars(found))
    assert_nothing_lost(found)
    assert {task["id"] for task in home.json("tasks", "list", "--all")} >= plain
    assert len(plain) == 3 * rounds, "each is another task, also where a new stream gives the old numbers again"


def until_told_again(daemon: Daemon, *, times: int) -> int:
    """Wait until it has said so for the n-th time; returns how many events it were then."""

    def told() -> list[str]:
        return re.findall(r"NATS: stream .*; ([\d,]+) events are told again", daemon.said())

    daemon.until(lambda: len(told()) == times)
    return int(told()[-1].replace(",", ""))


def say_without_an_id(link: Link, title: str) -> str:
    """A task that is said once. Returns its id."""
    assert link.wait(10)
    data = json.dumps({"title": title, "status": "draft"}).encode()
    return json.loads(link.request(f"{DOOR}.task", data, timeout=20))["id"]


def test_nats_has_no_room_on_its_disk(workspace, tmp_path, figures):
    """Its own disk is full; the workspace's is not."""
    home = named_home(workspace, None)
    place = home.root / ".ravi/nats"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("making a small file system needs root on Linux")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    rounds, recovered, refused = size(1, 20), [], 0
    try:
        with ExitStack() as stack:
            begin(home)
            daemon = stack.enter_context(Daemon(home))
            until_open(daemon)
            address = access(str(place))
            assert address is not None
            link = stack.enter_context(linked(address))
            senders = stack.enter_context(Senders(link, patience=1.0))
            for _ in range(rounds):
                senders.permit(1)
                daemon.until(lambda: is_settled(home, senders))
                fill(place / "filler")
                before = senders.again
                senders.permit(2)
                daemon.until(lambda before=before: senders.again > before + SENDERS)
                daemon.until(lambda: "no space left" in home.json("status")["daemon"]["nats"]["said"].lower())
                home.run("tasks", "comment", "talk", "git has room")
                refused += senders.again - before
                (place / "filler").unlink()
                before, began = len(senders.answered), time.monotonic()
                daemon.until(lambda before=before: len(senders.answered) > before)
                recovered.append(time.monotonic() - began)
            daemon.until(lambda: is_settled(home, senders))
            found = counted(home, senders)
            assert daemon.stop() == 0, daemon.said()
        check(home, Promises())
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
    figures(fills=rounds, refused=refused, **vars(found), **took("recovery", recovered))
    assert_nothing_lost(found)


def fill(place: Path) -> None:
    """Take all room, down to the last byte."""
    with open(place, "ab", buffering=0) as file:
        for piece in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * piece) == piece:
                    pass


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


POISON: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "a bomb": lambda n: ("task", b"[" * 100_000),
    "deep": lambda n: ("event", deep(20_000).encode()),
    "deep, but JSON": lambda n: ("event", deep(600 + n).encode()),
    "as large as can be": lambda n: ("event", json.dumps({"n": n, "x": "y" * 1_000_000}).encode()),
    "all NUL": lambda n: ("comment", b"\0" * (300_000 + n)),
    "a long lie": lambda n: ("task", json.dumps({"specversion": f"{n}\0" * 80_000}).encode()),
    "not UTF-8": lambda n: ("task", b'{"title": "\xff\xfe %d"}' % n),
    "no such door": lambda n: (f"window-{n}", b'{"title": "in"}'),
    "no such door at all": lambda n: (f"task.{n}.more", b'{"title": "in"}'),
    "empty": lambda n: ("task", b""),
    "a list": lambda n: ("comment", json.dumps([n]).encode()),
    "wrong types": lambda n: ("task", json.dumps({"title": {"n": n}, "body": 7}).encode()),
    "wrong keys": lambda n: ("task", json.dumps({"title": f"t {n}", "priority": "very", "status": [n]}).encode()),
    "no such task": lambda n: ("comment", json.dumps({"task": f"none-{n}", "text": "hm"}).encode()),
    "a type of ours": lambda n: (
        "event",
        json.dumps({"specversion": "1.0", "id": f"o-{n}", "source": "x", "type": "task.created"}).encode(),
    ),
    "endless": lambda n: ("event", b'{"data": 1e999, "n": "%d", "type": NaN, "specversion": "1.0"}' % n),
}


def test_poison_at_the_doors_holds_up_nobody(home, link, figures):
    poison, good = size(68, 510), size(16, 48)
    begin(home)
    with Daemon(home) as daemon:
        until_open(daemon)
        memory = [resident(daemon)]
        answers: queue.Queue[dict] = queue.Queue()
        makers = list(POISON.values())
        with Senders(link, patience=20) as senders, ExitStack() as stack:
            assert link.wait(10)
            for number in range(poison):
                door, data = makers[number % len(makers)](number)
                thread = threading.Thread(
                    target=lambda *said: answers.put(poured(link, *said)), args=(door, data, number)
                )
                thread.start()
                stack.callback(thread.join)
                if number % (poison * SENDERS // good) == 0:
                    senders.permit(1)
        memory.append(resident(daemon))
        assert len(senders.answered) == len(senders.said) >= good
        told = [answers.get(timeout=1) for _ in range(poison)]
        assert all("error" in answer for answer in told), [answer for answer in told if "error" not in answer]
        daemon.until(lambda: is_settled(home, senders))
        buried = home.json("events", "dead")
        told_dead = link.state("RAVI_HOME_DEAD")
        found = counted(home, senders)
        assert daemon.stop() == 0, daemon.said()
        assert "Traceback" not in daemon.said(), daemon.said()
    check(home, Promises())
    figures(
        poison=poison,
        dead_letters=len(buried),
        told_dead=told_dead.messages,
        slowest_good=f"{max(senders.answered.values()):.2f} s",
        memory_before=f"{memory[0]} MB",
        memory_after=f"{memory[1]} MB",
        **vars(found),
    )
    assert_nothing_lost(found)
    assert len(buried) == told_dead.messages == poison
    assert memory[1] < 400


def poured(link: Link, door: str, data: bytes, number: int) -> dict:
    """What poison is answered with; each has an id, or two that are the same would be one."""
    headers = {"Nats-Msg-Id": f"poison-{number}"}
    try:
        return json.loads(link.request(f"{DOOR}.{door}", data, headers=headers, timeout=90))
    except RaviError as fault:
        return {"silence": f"{door}: {data[:60]!r}: {fault}"}


def resident(daemon: Daemon) -> int:
    """The daemon's memory in MB."""
    told = Path("/proc", str(daemon.process.pid), "status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", told)[1]) // 1024


def test_work_goes_on_while_nats_is_away_and_is_told_in_order_when_it_is_back(home, nats, link, figures):
    tasks = size(20, 1000)
    begin(home)
    nats.kill()
    home.agent("worker", "echo done\n", "concurrency: 4\n")
    with Daemon(home) as daemon:
        for number in range(tasks):
            home.task(f"away-{number}", "worker")
        daemon.until(lambda: all(is_done(home, f"away-{number}") for number in range(tasks)), 30.0 + tasks)
        began = time.monotonic()
        nats.start()
        daemon.until(lambda: ref(home, TOLD) == ref(home, MAIN))
        seconds = time.monotonic() - began
        assert link.wait(10)
        told = [json.loads(data)["id"] for data in stored(link)]
        assert daemon.stop() == 0, daemon.said()
    recorded = main_line_events(home)
    assert told == recorded
    check(home, Promises())
    figures(
        tasks=tasks, events=len(told), out_of_order=0, drained=f"{seconds:.1f} s", rate=f"{len(told) / seconds:.0f}/s"
    )


def is_done(workspace, task: str) -> bool:
    return "status: done" in workspace.read(f"tasks/{task}/TASK.md")
