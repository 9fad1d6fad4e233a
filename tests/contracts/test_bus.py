"""One suite, every bus: what a consumer may rely on, whatever carries the events."""

import random
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ravi.bus.base import Bus, Dead, Delivery
from ravi.bus.jetstream import JetStreamBus, Names
from ravi.bus.log import LogBus
from ravi.bus.memory import MemoryBus, Stream
from ravi.bus.nats import Link, StreamSpec
from ravi.bus.server import NatsServer
from ravi.core.event import Event
from ravi.store.history import MainLine
from ravi.store.repository import Repository


class Backend:
    """A stream that outlives its consumers. `open` is what a process does at its start, also after a crash."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.closers: list[Callable[[], None]] = []

    def now(self) -> float:
        return self.time

    def open(self, name: str = "engine") -> Bus:
        raise NotImplementedError


class InMemory(Backend):
    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()

    def open(self, name: str = "engine") -> Bus:
        return MemoryBus(self.stream, name, self.now)


class InTheLog(Backend):
    def __init__(self, root: Path) -> None:
        super().__init__()
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        self.root = root

    def open(self, name: str = "engine") -> Bus:
        repository = Repository(str(self.root), lambda: datetime(2026, 11, 20, tzinfo=UTC), lambda: "main")
        self.closers.append(repository.close)
        return LogBus(MainLine(repository), name, self.now)


class InJetStream(Backend):
    def __init__(self, link: Link, stream: str) -> None:
        super().__init__()
        self.link = link
        self.names = Names(
            StreamSpec(f"{stream}_EVENTS", (f"{stream}.event.>",), max_age=3600, duplicate_window=3600),
            StreamSpec(f"{stream}_DEAD", (f"{stream}.dead.>",)),
            f"{stream}_cursors",
        )

    def open(self, name: str = "engine") -> Bus:
        return JetStreamBus(self.link, self.names, name, self.now)


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """A link to a server of our own; each test has streams of its own there."""
    server = NatsServer(str(tmp_path_factory.mktemp("nats")))
    link = Link(server.start())
    link.start()
    assert link.wait(10), link.fault
    yield link
    link.close()
    server.stop()


@pytest.fixture(params=["memory", "log", "jetstream"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend
    match request.param:
        case "memory":
            made = InMemory()
        case "log":
            made = InTheLog(tmp_path / "w")
        case _:
            made = InJetStream(request.getfixturevalue("link"), secrets.token_hex(4))
    yield made
    for close in made.closers:
        close()


def event(n: int) -> Event:
    return Event(
        f"e{n}", "timer.due", f"task-{n}", source="test", time="2026-11-20T10:22:33.123Z", depth=n % 3, data={"n": n}
    )


def plain(deliveries: list[Delivery]) -> list[Event]:
    """Without the commit, which only the log knows."""
    return [replace(d.event, commit="") for d in deliveries]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [d.event.id for d in deliveries]


def publish(bus: Bus, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        assert bus.publish(event(n))


def test_what_is_published_is_received_whole_and_in_order(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 5)
    assert plain(bus.receive(10)) == [event(n) for n in range(5)]


def test_nothing_is_received_when_nothing_is_there(backend: Backend) -> None:
    bus = backend.open()
    assert bus.receive(10) == []
    assert bus.due() is None
    assert bus.dead() == ()


def test_the_same_event_twice_is_one(backend: Backend) -> None:
    bus = backend.open()
    assert bus.publish(event(1))
    assert not bus.publish(event(1))
    assert not backend.open().publish(event(1))
    assert not backend.open("other").publish(event(1))
    assert ids(bus.receive(10)) == ["e1"]


def test_the_same_event_is_one_even_after_it_was_acknowledged(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 1)
    bus.receive()[0].ack()
    assert not bus.publish(event(0))
    assert bus.receive() == []


def test_no_more_are_received_than_asked_for(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 5)
    assert ids(bus.receive(2)) == ["e0", "e1"]
    assert ids(bus.receive()) == ["e2"]
    assert ids(bus.receive(9)) == ["e3", "e4"]


def test_what_is_out_is_not_handed_out_again(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 2)
    assert len(bus.receive(5)) == 2
    assert bus.receive(5) == []


def test_what_is_acknowledged_never_comes_again(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 3)
    for delivery in bus.receive(3):
        delivery.ack()
    assert bus.receive(3) == []
    bus.close()
    again = backend.open()
    assert again.receive(3) == []
    publish(again, 1, start=3)
    assert ids(again.receive(3)) == ["e3"]


def test_what_was_out_when_the_process_died_comes_again_in_order(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 4)
    first, *_ = bus.receive(3)
    first.ack()
    del bus  # no goodbye
    found = ids(backend.open().receive(9))
    assert found[-3:] == ["e1", "e2", "e3"]
    assert found[:-3] in ([], ["e0"])


def test_a_gap_in_what_was_acknowledged_is_not_forgotten(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 3)
    deliveries = bus.receive(3)
    deliveries[0].ack()
    deliveries[2].ack()
    found = ids(backend.open().receive(9))
    assert "e1" in found
    assert found == sorted(found)


def test_put_back_it_comes_again_when_its_delay_is_over(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 1)
    bus.receive()[0].nak(5)
    assert bus.receive() == []
    assert bus.due() == backend.time + 5
    backend.time += 4.9
    assert bus.receive() == []
    backend.time += 0.1
    (again,) = bus.receive()
    assert (again.event.id, again.attempt) == ("e0", 2)
    assert bus.due() is None
    again.ack()
    assert bus.receive() == []


def test_put_back_without_delay_it_comes_again_at_once(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 2)
    bus.receive()[0].nak()
    assert ids(bus.receive(2)) == ["e0", "e1"]


def test_what_was_put_back_holds_up_nobody_and_goes_first_when_it_is_due(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 4)
    one, two = bus.receive(2)
    two.nak(3)
    one.nak(2)
    assert bus.due() == backend.time + 2
    assert ids(bus.receive(1)) == ["e2"]
    backend.time += 3
    assert ids(bus.receive(5)) == ["e0", "e1", "e3"]


def test_what_was_put_back_comes_again_after_a_crash_too(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 2)
    one, two = bus.receive(2)
    one.nak(3600)
    two.ack()
    assert "e0" in ids(backend.open().receive(5))


def test_given_up_it_is_kept_with_the_reason_and_never_comes_again(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 2)
    one, two = bus.receive(2)
    one.term("it cannot be: no such agent")
    two.ack()
    assert bus.receive(5) == []
    bus.close()
    again = backend.open()
    assert again.receive(5) == []
    assert [Dead(replace(d.event, commit=""), d.reason) for d in again.dead()] == [
        Dead(event(0), "it cannot be: no such agent")
    ]


def test_the_first_verb_counts(backend: Backend) -> None:
    bus = backend.open()
    publish(bus, 3)
    one, two, three = bus.receive(3)
    one.ack()
    one.nak()
    one.term("late")
    two.nak(1)
    two.ack()
    three.term("enough")
    three.ack()
    backend.time += 1
    assert ids(bus.receive(5)) == ["e1"]
    assert [d.reason for d in bus.dead()] == ["enough"]


def test_consumers_of_different_names_do_not_know_each_other(backend: Backend) -> None:
    one, two = backend.open("one"), backend.open("two")
    publish(one, 2)
    for delivery in one.receive(2):
        delivery.ack()
    assert ids(two.receive(2)) == ["e0", "e1"]
    one.receive(2)
    assert one.dead() == ()
    assert two.dead() == ()


def test_many_threads_publish_and_each_event_is_there_once(backend: Backend) -> None:
    bus = backend.open()
    added: list[bool] = []

    def work(seed: int) -> None:
        for n in random.Random(seed).sample(range(12), 12):
            added.append(bus.publish(event(n)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 12
    assert sorted(ids(bus.receive(99))) == sorted(f"e{n}" for n in range(12))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_nothing_is_lost_and_nothing_settled_out_of_reach(backend: Backend, seed: int) -> None:
    """Random verbs and crashes. In the end every event was acknowledged or given up, and an ack was never undone
    while the consumer lived.
    """
    chance = random.Random(seed)
    bus, out, published = backend.open(), list[Delivery](), 0
    done: set[str] = set()
    since: set[str] = set()  # settled since the consumer was opened
    for _ in range(60):
        match chance.randrange(7):
            case 0 | 1:
                publish(bus, 1, start=published)
                published += 1
            case 2 | 3:
                got = bus.receive(chance.randrange(1, 4))
                assert not since & set(ids(got))
                out += got
            case 4 if out:
                delivery = out.pop(chance.randrange(len(out)))
                chance.choice([delivery.ack, lambda d=delivery: d.term("enough")])()
                done.add(delivery.event.id)
                since.add(delivery.event.id)
            case 5 if out:
                out.pop(chance.randrange(len(out))).nak(chance.randrange(3))
            case 6:
                backend.time += 1
                if chance.random() < 0.3:
                    bus, out, since = backend.open(), [], set()
    bus = backend.open()
    while deliveries := bus.receive(5):
        for delivery in deliveries:
            delivery.ack()
            done.add(delivery.event.id)
    assert done == {f"e{n}" for n in range(published)}
    bus.close()
    assert backend.open().receive() == []
