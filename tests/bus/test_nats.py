"""The link with a real server, and with what real servers do: die, freeze, forget, and come late."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ravi.bus.nats import Address, Link, Message, StreamSpec
from ravi.bus.server import NatsServer
from ravi.errors import Conflict, Refused, TimedOut, Unavailable, UsageError

Until = Callable[..., object]
SPEC = StreamSpec("S", ("s.>",))


class Heard:
    """The messages that came so far, and a way to wait for more. What is done with each is asked of `then`."""

    def __init__(self, then: Callable[[Message], object] = Message.ack) -> None:
        self.all: list[Message] = []
        self._then = then
        self._changed = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self._changed:
            self.all.append(message)
            self._changed.notify_all()
        self._then(message)

    def data(self, count: int) -> list[bytes]:
        """What the first `count` said."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, timeout=15), self.all
            return [message.data for message in self.all]


def nothing(message: Message) -> None:
    """It is enough to have heard it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nats"


@pytest.fixture
def server(folder: Path) -> Iterator[NatsServer]:
    server = NatsServer(str(folder))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connect(server: NatsServer) -> Iterator[Callable[..., Link]]:
    """Links to the server that are connected."""
    links = []

    def connect(address: Address | None = None, on_change: Callable[[bool], None] | None = None) -> Link:
        link = Link(address or server.address, on_change=on_change)
        links.append(link)
        link.start()
        assert link.wait(10), link.fault
        return link

    yield connect
    for link in links:
        link.close()


@pytest.fixture
def link(connect: Callable[..., Link]) -> Link:
    link = connect()
    link.ensure(SPEC)
    return link


# Publishing


def test_what_is_published_is_stored_and_numbered(link: Link) -> None:
    assert [link.publish("s.a", b"x").seq for _ in range(3)] == [1, 2, 3]
    state = link.state("S")
    assert state is not None
    assert (state.first_seq, state.last_seq, state.messages) == (1, 3, 3)


def test_the_same_id_twice_is_one_message(link: Link) -> None:
    first, again = link.publish("s.a", b"x", id="one"), link.publish("s.a", b"x", id="one")
    assert (first.duplicate, again.duplicate, again.seq) == (False, True, first.seq)


def test_what_no_stream_takes_is_told(link: Link) -> None:
    with pytest.raises(Unavailable, match="other: nobody answers there"):
        link.publish("other", b"x")


def test_what_is_too_large_is_refused_and_not_tried_again(link: Link) -> None:
    with pytest.raises(Refused, match="larger than the server takes"):
        link.publish("s.a", b"x" * 2_000_000)


def test_a_stream_keeps_what_was_said_with_it(link: Link) -> None:
    link.publish("s.a", "é".encode(), headers={"Colour": "blue"})
    link.publish("s.b", b"")
    one, two = link.read("S"), link.read("S", 1, subject="s.b")
    assert one is not None
    assert two is not None
    assert (one.subject, one.data, one.headers, one.seq) == ("s.a", "é".encode(), {"Colour": "blue"}, 1)
    assert (two.subject, two.data, two.seq) == ("s.b", b"", 2)
    assert link.read("S", 2) is None


# Streams


def test_a_stream_is_changed_in_place(link: Link) -> None:
    link.publish("s.a", b"x")
    assert link.ensure(replace(SPEC, subjects=("s.>", "t.>"), max_age=60.0, no_ack=True)).messages == 1
    with pytest.raises(Unavailable, match="no answer within"):
        link.publish("t.a", b"x", timeout=0.2)
    state = link.state("S")
    assert state is not None
    assert state.messages == 2


def test_what_a_stream_cannot_become_is_refused_in_words(link: Link) -> None:
    with pytest.raises(Refused, match=r"stream S: .*retention"):
        link.ensure(replace(SPEC, retention="workqueue"))


def test_there_is_no_state_of_no_stream(link: Link) -> None:
    assert link.state("nothing") is None


# Consuming


def test_what_was_published_is_handed_out_whole_and_in_order(link: Link) -> None:
    for n in range(5):
        link.publish(f"s.{n}", b"%d" % n, headers={"N": str(n)})
    heard = Heard()
    link.consume("S", "d", heard)
    assert heard.data(5) == [b"0", b"1", b"2", b"3", b"4"]
    third = heard.all[2]
    assert (third.subject, third.headers, third.stream, third.seq, third.attempt) == ("s.2", {"N": "2"}, "S", 3, 1)
    assert third.when is not None
    link.publish("s.5", b"5")
    assert heard.data(6)[5] == b"5"


def test_only_the_subject_that_was_asked_for_is_handed_out(link: Link) -> None:
    for subject in ("s.a", "s.b", "s.a"):
        link.publish(subject, subject.encode())
    heard = Heard()
    link.consume("S", "d", heard, subject="s.b")
    assert heard.data(1) == [b"s.b"]


def test_when_ack_returns_the_server_knows(connect: Callable[..., Link], link: Link) -> None:
    for n in range(3):
        link.publish("s.a", b"%d" % n)
    heard = Heard()
    subscription = link.consume("S", "d", heard, ack_wait=0.3)
    heard.data(3)
    subscription.close()
    link.publish("s.a", b"3")
    again = Heard()
    connect().consume("S", "d", again, ack_wait=0.3)
    assert again.data(1) == [b"3"]


def test_put_back_it_comes_again_after_its_delay(link: Link) -> None:
    link.publish("s.a", b"x")
    times: list[float] = []

    def then(message: Message) -> None:
        times.append(time.monotonic())
        message.nak(0.3) if message.attempt == 1 else message.ack()

    heard = Heard(then)
    link.consume("S", "d", heard)
    heard.data(2)
    assert [message.attempt for message in heard.all] == [1, 2]
    assert times[1] - times[0] >= 0.29


def test_given_up_it_never_comes_again(link: Link) -> None:
    for data in (b"bad", b"good"):
        link.publish("s.a", data)
    heard = Heard(lambda message: message.term("it cannot be") if message.data == b"bad" else message.nak())
    link.consume("S", "d", heard, ack_wait=0.2)
    assert heard.data(5) == [b"bad", b"good", b"good", b"good", b"good"]


def test_who_says_that_it_works_may_take_longer_than_the_server_waits(link: Link) -> None:
    link.publish("s.a", b"slow")
    link.publish("s.a", b"next")
    pause = threading.Event()

    def then(message: Message) -> None:
        for _ in range(8 if message.data == b"slow" else 0):
            pause.wait(0.1)
            message.working()
        message.ack()

    heard = Heard(then)
    link.consume("S", "d", heard, ack_wait=0.4)
    assert heard.data(2) == [b"slow", b"next"]


def test_what_waits_for_its_turn_is_not_handed_out_a_second_time(link: Link) -> None:
    for n in range(6):
        link.publish("s.a", b"%d" % n)
    pause = threading.Event()
    heard = Heard(lambda message: (pause.wait(0.2), message.ack()))
    link.consume("S", "d", heard, ack_wait=0.5)
    assert heard.data(6) == [b"%d" % n for n in range(6)]
    assert {message.attempt for message in heard.all} == {1}


def test_with_nothing_ahead_the_rest_is_left_to_others(connect: Callable[..., Link], link: Link) -> None:
    go = threading.Event()
    busy, free = Heard(lambda message: (go.wait(15), message.ack())), Heard()
    link.consume("S", "d", busy, ahead=0)
    link.publish("s.a", b"0")
    busy.data(1)
    connect().consume("S", "d", free, ahead=0)
    for n in range(1, 5):
        link.publish("s.a", b"%d" % n)
    assert free.data(4) == [b"1", b"2", b"3", b"4"]
    go.set()


def test_what_could_not_be_handled_comes_again(link: Link) -> None:
    link.publish("s.a", b"x")

    def then(message: Message) -> None:
        if message.attempt == 1:
            raise ValueError("a bug")
        message.ack()

    heard = Heard(then)
    link.consume("S", "d", heard)
    assert heard.data(2) == [b"x", b"x"]


CONSUMER = """
import sys, threading
from ravi.bus.nats import Address, Link
link = Link(Address((sys.argv[1],), user="ravi", password=sys.argv[2]))
link.start()
link.wait(10)
link.consume("S", "d", lambda message: print("got", message.attempt, flush=True), ack_wait=0.5)
threading.Event().wait()
"""


def test_what_a_killed_consumer_had_comes_again(server: NatsServer, link: Link) -> None:
    link.publish("s.a", b"x")
    words = [sys.executable, "-c", CONSUMER, server.address.urls[0], server.address.password]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "got 1\n"
        process.kill()
    heard = Heard()
    link.consume("S", "d", heard, ack_wait=0.5)
    assert heard.data(1) == [b"x"]
    assert heard.all[0].attempt > 1


def test_closed_it_hands_out_nothing_more_and_what_waited_comes_again_at_once(link: Link) -> None:
    for n in range(4):
        link.publish("s.a", b"%d" % n)
    go = threading.Event()
    slow = Heard(lambda message: (go.wait(15), message.ack()))
    subscription = link.consume("S", "d", slow, ack_wait=60)
    slow.data(1)
    closing = threading.Thread(target=subscription.close)
    closing.start()
    next = Heard()
    link.consume("S", "d", next, ack_wait=60)
    assert sorted(next.data(3)) == [b"1", b"2", b"3"]
    go.set()
    closing.join()
    assert slow.data(1) == [b"0"]


def test_what_is_handling_a_message_may_end_it_all(connect: Callable[..., Link], link: Link) -> None:
    link.publish("s.a", b"x")
    other = connect()
    ended = threading.Event()

    def then(message: Message) -> None:
        message.ack()
        other.close()
        ended.set()

    other.consume("S", "d", then)
    assert ended.wait(10)
    with pytest.raises(Unavailable, match="the link was closed"):
        other.state("S")


# Talking


def test_a_request_is_answered(connect: Callable[..., Link], link: Link) -> None:
    link.subscribe("echo", lambda message: link.send(message.reply, message.data.upper()))
    assert connect().request("echo", b"hello", timeout=5) == b"HELLO"


def test_whom_nobody_hears_is_told_so_and_whom_nobody_answers_waits_no_longer_than_asked(link: Link) -> None:
    with pytest.raises(Unavailable, match="nobody: nobody answers there"):
        link.request("nobody", b"", timeout=5)
    link.subscribe("silence", lambda message: None)
    with pytest.raises(TimedOut, match=r"silence: no answer within 0\.2 s"):
        link.request("silence", b"", timeout=0.2)


def test_who_stops_listening_leaves_the_link_as_it_is(connect: Callable[..., Link]) -> None:
    changes: list[bool] = []
    link = connect(on_change=changes.append)
    link.subscribe("talk", nothing).close()
    assert link.connected
    assert changes == [True]


def test_of_a_queue_one_hears_each_message(connect: Callable[..., Link], link: Link, until: Until) -> None:
    one, two, every = Heard(nothing), Heard(nothing), Heard(nothing)
    for heard, queue in ((one, "q"), (two, "q"), (every, "")):
        connect().subscribe("news", heard, queue=queue)
    for _ in range(20):
        link.send("news", b"x")
    until(lambda: len(every.all) == 20)
    until(lambda: len(one.all) + len(two.all) == 20)


def test_who_publishes_to_a_stream_that_does_not_answer_is_answered_by_who_listens(
    connect: Callable[..., Link], link: Link
) -> None:
    link.ensure(StreamSpec("IN", ("in.>",), "workqueue", no_ack=True, duplicate_window=0.1))
    link.subscribe("in.>", lambda m: link.send(m.reply, json.dumps({"stream": "IN", "seq": 7, "id": "t1"}).encode()))
    assert connect().publish("in.task", b"{}").seq == 7
    state = link.state("IN")
    assert state is not None
    assert state.messages == 1


# Buckets


def test_a_key_is_made_once_and_changed_by_who_knows_its_revision(link: Link) -> None:
    bucket = link.bucket("b")
    first = bucket.create("one", b"1")
    with pytest.raises(Conflict):
        bucket.create("one", b"2")
    second = bucket.update("one", b"2", first)
    with pytest.raises(Conflict):
        bucket.update("one", b"3", first)
    held = bucket.get("one")
    assert held is not None
    assert (held.value, held.revision) == (b"2", second)
    bucket.put("two", b"")
    assert bucket.keys() == ("one", "two")
    bucket.delete("one")
    bucket.delete("one")
    assert bucket.get("one") is None
    assert bucket.keys() == ("two",)
    assert bucket.create("one", b"anew") > second


def test_what_is_not_written_for_its_time_is_gone(link: Link, until: Until) -> None:
    bucket = link.bucket("b", ttl=0.3)
    bucket.create("one", b"1")
    assert bucket.get("one") is not None
    until(lambda: bucket.get("one") is None)
    assert bucket.keys() == ()
    bucket.create("one", b"2")


def test_of_many_who_make_a_key_one_does(link: Link) -> None:
    bucket, won = link.bucket("b"), []

    def race(n: int) -> None:
        with suppress(Conflict):
            won.append(bucket.create("lock", b"%d" % n))

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


# Faults


def test_what_was_acknowledged_is_there_though_the_server_was_killed_under_the_publishers(
    server: NatsServer, link: Link, until: Until
) -> None:
    acknowledged: set[str] = set()
    stop = threading.Event()

    def work(name: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            id = f"{name}-{n}"
            while not stop.is_set():
                try:
                    link.publish("s.a", id.encode(), id=id)
                except Unavailable:
                    link.wait(1)
                else:
                    acknowledged.add(id)
                    break

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        count = len(acknowledged)
        until(lambda count=count: len(acknowledged) >= count + 40)
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: server.pid not in (0, pid))
    stop.set()
    for thread in threads:
        thread.join()
    assert link.wait(10)
    heard = Heard(nothing)
    state = link.state("S")
    assert state is not None
    link.consume("S", "check", heard, max_ack_pending=100_000)
    stored = [data.decode() for data in heard.data(state.messages)]
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


def test_a_frozen_server_holds_nobody_up_and_is_found_again(server: NatsServer, link: Link, until: Until) -> None:
    heard = Heard()
    link.consume("S", "d", heard, ack_wait=1)  # awake, it may first send to the connection that was given up
    os.kill(server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"s\.a: no answer within 0\.3 s"):
            link.publish("s.a", b"1", id="1", timeout=0.3)
        assert time.monotonic() - began < 2
        until(lambda: not link.connected)
        with pytest.raises(Unavailable, match="nats: "):
            link.publish("s.a", b"1", id="1")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert link.wait(10), link.fault
    link.publish("s.a", b"1", id="1")
    assert set(heard.data(1)) == {b"1"}


def test_who_waits_for_an_answer_is_told_at_once_when_the_server_dies(server: NatsServer, link: Link) -> None:
    asked = threading.Event()
    link.subscribe("silence", lambda message: asked.set())
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(Unavailable) as fault:
            link.request("silence", b"", timeout=60)
        told.append(fault.value.message)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    os.kill(server.pid, signal.SIGKILL)
    thread.join(10)
    assert told == ["silence: the connection ended before the answer came"]


def test_a_server_that_forgot_everything_gets_its_streams_and_consumers_again(
    server: NatsServer, folder: Path, link: Link, until: Until
) -> None:
    heard = Heard()
    link.consume("S", "d", heard)
    bucket = link.bucket("b")
    bucket.put("key", b"value")
    link.publish("s.a", b"before")
    heard.data(1)
    before = link.state("S")
    server.stop()
    until(lambda: not link.connected)
    shutil.rmtree(folder / "store")
    again = NatsServer(str(folder))
    again.start()
    try:
        assert link.wait(10), link.fault
        after = link.state("S")
        assert before is not None
        assert after is not None
        assert (before.last_seq, after.last_seq) == (1, 0)
        assert before.created != after.created
        assert bucket.get("key") is None
        link.publish("s.a", b"after")
        assert heard.data(2) == [b"before", b"after"]
        with pytest.raises(Unavailable, match="the server lost the stream that held it"):
            heard.all[0].ack()
    finally:
        link.close()
        again.stop()


def test_a_stream_that_somebody_deleted_is_made_again_for_who_consumes_it(link: Link, until: Until) -> None:
    heard = Heard(nothing)
    link.consume("S", "d", heard)
    link.publish("s.a", b"before")
    heard.data(1)
    link.request("$JS.API.STREAM.DELETE.S", b"")
    until(lambda: link.state("S") is not None)
    link.publish("s.a", b"after")
    assert heard.data(2) == [b"before", b"after"]


def test_a_server_may_come_later_than_the_link(folder: Path) -> None:
    early = NatsServer(str(folder))
    address = early.start()
    early.stop()
    changes: list[bool] = []
    heard = Heard()
    link = Link(address, on_change=changes.append)
    link.start()
    late = NatsServer(str(folder))
    try:
        with pytest.raises(Unavailable):
            link.ensure(SPEC)
        link.consume("S", "d", heard)
        bucket = link.bucket("b")
        assert not link.wait(0.2)
        assert link.fault == f"{address.urls[0]}: nobody listens there"
        late.start()
        assert link.wait(10), link.fault
        assert link.fault == ""
        link.publish("s.a", b"x")
        assert heard.data(1) == [b"x"]
        assert bucket.keys() == ()
    finally:
        link.close()
        late.stop()
    assert changes == [True]


def test_every_change_is_told_where_the_link_may_be_used(
    server: NatsServer, connect: Callable[..., Link], until: Until
) -> None:
    told: list[object] = []

    def changed(connected: bool) -> None:
        told.append(links[0].ensure(SPEC).name if connected else False)

    links: list[Link] = []
    link = Link(server.address, on_change=changed)
    links.append(link)
    link.start()
    until(lambda: told == ["S"])
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: told == ["S", False, "S"])
    link.close()


def test_of_two_servers_one_may_be_dead(server: NatsServer, connect: Callable[..., Link]) -> None:
    dead = "nats://127.0.0.1:1"
    for urls in ((dead, *server.address.urls), (*server.address.urls, dead)):
        link = connect(replace(server.address, urls=urls))
        assert link.url == server.address.urls[0]
        assert link.fault == ""


def test_what_is_no_address_is_told_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="`host:99999` is no address of a NATS server"):
        Link(Address(("nats://ann:secret@host:99999",)))
    with pytest.raises(UsageError, match="there is no url"):
        Link(Address(()))


def test_credentials_in_a_url_open_the_server_and_are_shown_nowhere(
    server: NatsServer, connect: Callable[..., Link]
) -> None:
    plain = server.address.urls[0]
    link = connect(Address((plain.replace("//", f"//ravi:{server.address.password}@"),)))
    assert link.url == plain


def test_a_file_that_is_missing_is_told(server: NatsServer, until: Until) -> None:
    for address in (replace(server.address, ca="/nowhere/ca.pem"), replace(server.address, creds="/nowhere/creds")):
        link = Link(address)
        link.start()
        until(lambda link=link: "not connected yet" not in link.fault)
        link.close()
        assert "No such file" in link.fault or "nkeys" in link.fault


# Ends


def test_before_the_start_and_after_the_end_calls_are_refused(server: NatsServer) -> None:
    link = Link(server.address)
    with pytest.raises(Unavailable, match="the link was not started"):
        link.publish("s.a", b"x")
    link.start()
    link.close()
    link.close()
    with pytest.raises(Unavailable, match="the link was closed"):
        link.publish("s.a", b"x")
    Link(server.address).close()


def test_a_link_to_a_frozen_server_can_be_closed(server: NatsServer, link: Link) -> None:
    link.consume("S", "d", nothing)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with suppress(Unavailable):
            link.publish("s.a", bytes(900_000), timeout=0.1)
        began = time.monotonic()
        link.close()
        assert time.monotonic() - began < 5
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_is_left_behind(server: NatsServer) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    for wait in (10.0, 10.0, 0.0):  # the last is closed while it connects
        link = Link(server.address, on_change=lambda connected: None)
        link.start()
        if link.wait(wait):
            link.ensure(SPEC)
            link.consume("S", "d", Heard())
            link.subscribe("news", Heard(nothing))
        link.close()
    assert (descriptors(), threading.active_count()) == (before, threads)
