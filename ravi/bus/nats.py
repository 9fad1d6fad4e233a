"""The link to a NATS server: nats-py's event loop in one thread of its own, behind calls that any thread may make.

nats-py closes a connection for good on some faults, and sends what it kept while it reconnected long after the caller
was told of a failure. So a connection here has one life: when it ends, whoever waits on it is told at once, and a new
one is made, for ever.
"""

import base64
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ravi.errors import Conflict, NotFound, RaviError, Refused, TimedOut, Unavailable, UsageError

if TYPE_CHECKING:  # 130 ms: imported when a link starts
    import asyncio
    import ssl

    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PATIENCE = 5.0  # seconds for an answer of the server itself
_CONNECT = 2.0  # seconds for a server to take a connection, and as many to greet
_PING, _UNANSWERED = 2, 2  # seconds between pings, and how many may stay without an answer: a frozen server is left
_PAUSE, _LONGEST = 0.05, 1.0  # seconds between rounds over all urls: the first wait and the longest
_EXPIRES, _HEARTBEAT = 30.0, 5.0  # seconds that a pull stays open, and between signs that the server knows of it
_NAME_TAKEN, _NOT_CHANGED, _WRONG_LAST = 10058, 10052, (10071, 10164)  # `err_code` in answers of JetStream


@dataclass(frozen=True, slots=True)
class Address:
    """Where NATS is, and what opens it. `creds`, `ca`, `cert` and `key` are files."""

    urls: tuple[str, ...]
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    creds: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    name: str = "ravi"


@dataclass(frozen=True, slots=True)
class Ack:
    """A stream holds a message as its number `seq`; `duplicate` when one with that id was there already."""

    stream: str
    seq: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream shall be. Times are in seconds; 0 is no limit for `max_age` and `max_bytes`."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"] = "limits"
    max_age: float = 0.0
    duplicate_window: float = 120.0
    no_ack: bool = False
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds. With another `created` it is another stream: what the one before it held is lost."""

    name: str
    created: str
    first_seq: int
    last_seq: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """A key's value in a bucket, and the revision that `update` wants to hear."""

    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Its verbs are for what `consume` hands out; any thread may use them."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str = ""  # where its sender waits for an answer; a stream does not keep it
    stream: str = ""
    seq: int = 0
    attempt: int = 1
    when: datetime | None = None
    _receipt: "_Receipt | None" = field(default=None, repr=False)

    def ack(self) -> None:
        """Done: once this returns it never comes again. Raises Unavailable when the server did not confirm it."""
        self._held.settle()

    def nak(self, delay: float = 0.0) -> None:
        """Not now: it comes again after `delay` seconds."""
        self._held.say(b'-NAK {"delay": %d}' % _ns(delay))

    def term(self, reason: str = "") -> None:
        """Never again."""
        self._held.say(f"+TERM {reason}".encode())

    def working(self) -> None:
        """Still at it: the time after which it comes again by itself starts anew."""
        self._held.say(b"+WPI")

    @property
    def _held(self) -> "_Receipt":
        if self._receipt is None:
            raise UsageError(f"{self.subject}: only what `consume` hands out can be settled")
        return self._receipt


class Link:
    """A connection that is made again whenever it ends. While there is none, calls raise Unavailable at once.

    Streams, buckets and consumers that were asked for are remembered: a server that comes back with nothing in its
    store has them again before `connected` is true. `on_change` hears of every change until `close`, in order, in a
    thread where it may use the link; the link waits for it to return.
    """

    def __init__(self, address: Address, *, on_change: Callable[[bool], None] | None = None) -> None:
        self._wire = _Wire(address, on_change)

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self._wire.start()

    def close(self) -> None:
        """End all subscriptions and the connection. No thread and no descriptor stays behind."""
        self._wire.close()

    @property
    def connected(self) -> bool:
        """True when the server answers and has the streams that were asked for."""
        return self._wire.ready.is_set()

    @property
    def life(self) -> int:
        """How many connections there were: with each, the server may be another, or have lost something."""
        return self._wire.life

    @property
    def url(self) -> str:
        """The server it speaks with, or tried last; without credentials."""
        return self._wire.url

    @property
    def fault(self) -> str:
        """The last thing that went wrong, in words; empty when nothing did since it connected."""
        return self._wire.fault

    def wait(self, timeout: float) -> bool:
        """Wait until it is connected; False when it was not in that time."""
        return self._wire.ready.wait(timeout)

    def publish(
        self, subject: str, data: bytes, *, id: str = "", headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> Ack:
        """Have a stream take a message; it is stored on return. After Unavailable it may be stored all the same.

        A message whose `id` the stream has seen within its duplicate window is not stored twice: so give it one.
        """
        told = {**(headers or {}), **({"Nats-Msg-Id": id} if id else {})}
        found = self._wire.ask(subject, data, told, timeout)
        return Ack(found["stream"], found["seq"], found.get("duplicate", False))

    def send(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Say something to whoever listens now."""
        self._wire.call(lambda line: line.client.publish(subject, data, reply=reply), subject)

    def request(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> bytes:
        """Ask, and wait for one answer. Unavailable when nobody listens, TimedOut when nobody answers in time."""
        return self._wire.call(lambda line: _answer(line, subject, data, headers), subject, timeout)

    def ensure(self, spec: StreamSpec) -> StreamState:
        """Make a stream, or change the one that is there; from now on it is made again when the server lacks it.

        Raises Refused when the server does not let an existing stream become this.
        """
        config = {
            "name": spec.name,
            "subjects": list(spec.subjects),
            "retention": spec.retention,
            "max_age": _ns(spec.max_age),
            "duplicate_window": _ns(min(spec.duplicate_window, spec.max_age or spec.duplicate_window)),
            "no_ack": spec.no_ack,
            "max_bytes": spec.max_bytes or -1,
        }
        return self._wire.furnish(config)

    def state(self, stream: str) -> StreamState | None:
        """What a stream holds now; None when there is no such stream."""
        with suppress(NotFound):
            return _state(self._wire.ask(f"$JS.API.STREAM.INFO.{stream}"))
        return None

    def read(self, stream: str, after: int = 0, *, subject: str = ">") -> Message | None:
        """The first message after number `after` that a stream holds on a subject. Nothing is settled by it."""
        return self._wire.stored(stream, {"seq": after + 1, "next_by_subj": subject})

    def consume(
        self,
        stream: str,
        durable: str,
        on_message: Callable[[Message], None],
        *,
        subject: str = "",
        ack_wait: float = 30.0,
        max_deliver: int = -1,
        max_ack_pending: int = 256,
        ahead: int = 63,
        alone: bool = False,
    ) -> "Subscription":
        """Hand the messages of a stream to `on_message`, one after the other, in a thread of its own.

        The position is kept by the server under the name `durable`. What is not settled within `ack_wait` seconds of
        being handed out comes again, and so does, after a second, what `on_message` raised an exception for. `ahead`
        messages are fetched before their turn; with 0, one is fetched when `on_message` is free, and the rest is left
        to others who consume under this name. Who is `alone` under it does not wait for `ack_wait` on a new connection:
        what was handed out before, and not settled, comes at once.
        """
        config = {
            "durable_name": durable,
            "ack_policy": "explicit",
            "ack_wait": _ns(ack_wait),
            "max_deliver": max_deliver,
            "max_ack_pending": max_ack_pending,
            **({"filter_subject": subject} if subject else {}),
        }
        return self._wire.listen(_Consumer(self._wire, on_message, stream, config, ahead, alone))

    def subscribe(self, subject: str, on_message: Callable[[Message], None], *, queue: str = "") -> "Subscription":
        """Hand what is said on a subject from now on to `on_message`, in a thread of its own; nothing is kept.

        Of those who share a `queue`, one hears each message.
        """
        return self._wire.listen(_Listener(self._wire, on_message, subject, queue))

    def bucket(self, name: str, *, ttl: float = 0.0) -> "Bucket":
        """Keys with values. With a `ttl`, what was not written for so many seconds is gone."""
        config = {
            "name": f"KV_{name}",
            "subjects": [f"$KV.{name}.>"],
            "max_msgs_per_subject": 1,
            "max_age": _ns(ttl),
            "duplicate_window": _ns(min(ttl or 120.0, 120.0)),
            "discard": "new",
            "deny_delete": True,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
        }
        with suppress(Unavailable):  # it is made as soon as the server is there
            self._wire.furnish(config)
        return Bucket(self._wire, name)


class Bucket:
    """Keys with values, and a revision for each: who writes on top of another revision than the present one loses."""

    def __init__(self, wire: "_Wire", name: str) -> None:
        self._wire = wire
        self._stream, self._prefix = f"KV_{name}", f"$KV.{name}."

    def get(self, key: str) -> Held | None:
        """The value of a key; None when there is none, or its time is over."""
        found = self._wire.stored(self._stream, {"last_by_subj": self._prefix + key})
        return None if found is None else Held(found.data, found.seq)

    def create(self, key: str, value: bytes) -> int:
        """Write a key that is not there; Conflict when it is. Returns the revision."""
        return self.update(key, value, 0)

    def update(self, key: str, value: bytes, revision: int) -> int:
        """Write a key that stands at `revision`; Conflict when it does not. Returns the new revision."""
        return self._write(key, value, {"Nats-Expected-Last-Subject-Sequence": str(revision)})

    def put(self, key: str, value: bytes) -> int:
        """Write a key, whatever is there. Returns the revision."""
        return self._write(key, value, None)

    def delete(self, key: str) -> None:
        """Remove a key; it does not matter whether it is there."""
        self._wire.ask(f"$JS.API.STREAM.PURGE.{self._stream}", {"filter": self._prefix + key})

    def keys(self) -> tuple[str, ...]:
        """All keys that have a value now, in order."""
        found = self._wire.ask(f"$JS.API.STREAM.INFO.{self._stream}", {"subjects_filter": ">"})
        return tuple(sorted(subject.removeprefix(self._prefix) for subject in found["state"].get("subjects", ())))

    def _write(self, key: str, value: bytes, headers: Mapping[str, str] | None) -> int:
        revision: int = self._wire.ask(self._prefix + key, value, headers)["seq"]
        return revision


class Subscription:
    """Messages on their way to one function, in a thread of its own, until `close`."""

    def __init__(self, wire: "_Wire", on_message: Callable[[Message], None]) -> None:
        self.begun = threading.Event()
        self._wire = wire
        self._on_message = on_message
        self._waiting: deque[Message] = deque()
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="nats-subscription", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hand out nothing more, and wait for what is being handled, unless that is what closes."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._wire.dismiss(self)
        if self._thread is not threading.current_thread():
            self._thread.join()

    async def feed(self, line: "_Line") -> None:
        """Add to what waits as long as the line lives; say `begun` when nothing is missed any more."""
        raise NotImplementedError

    def _add(self, message: Message) -> None:
        with self._changed:
            self._waiting.append(message)
            self._changed.notify()

    def _handled(self) -> None:
        """There is room for another."""

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                message, self._busy = self._waiting.popleft(), True
            try:
                self._on_message(message)
            except Unavailable as fault:
                log.warning("%s: it could not be settled and comes again: %s", message.subject, fault)
            except Exception:
                log.exception("%s: a message could not be handled", message.subject)
                with suppress(RaviError):  # not from a stream, or the server is away: then it comes again by itself
                    message.nak(1.0)
            self._busy = False
            self._handled()


class _Listener(Subscription):
    """What is said on a subject."""

    def __init__(self, wire: "_Wire", on_message: Callable[[Message], None], subject: str, queue: str) -> None:
        super().__init__(wire, on_message)
        self._subject, self._queue = subject, queue

    async def feed(self, line: "_Line") -> None:
        import asyncio

        async def arrived(msg: "Msg") -> None:
            self._add(Message(msg.subject, msg.data, msg.headers or {}, msg.reply))

        ear = await line.client.subscribe(self._subject, self._queue, cb=arrived)
        try:
            await line.client.flush()
            self.begun.set()
            await asyncio.shield(line.ended)  # our end is not the line's
        finally:
            with suppress(_nats_error()):
                await ear.unsubscribe()


class _Consumer(Subscription):
    """What a stream holds, pulled by a durable consumer: at most so much as can wait here."""

    def __init__(
        self,
        wire: "_Wire",
        on_message: Callable[[Message], None],
        stream: str,
        config: dict[str, Any],
        ahead: int,
        alone: bool,  # noqa: FBT001 - as `consume` was told
    ) -> None:
        self.born = ""  # when the server made the consumer: another moment is another consumer
        self._stream, self._config, self._most, self._alone = stream, config, ahead + 1, alone
        self._left = 0  # messages that the open pull may still bring
        self._heard = 0.0
        self._gone = False  # the server does not know the consumer
        self._stir: Callable[[], None] | None = None
        super().__init__(wire, on_message)

    async def feed(self, line: "_Line") -> None:
        import asyncio

        news = asyncio.Event()
        self._stir = news.set
        inbox = line.client.new_inbox()
        ear = await line.client.subscribe(inbox, cb=self._arrived)
        try:
            await self._bind(line, anew=self._alone)
            while True:
                self.begun.set()
                await self._pull(line, inbox, news)
                await self._bind(line)
        finally:
            with suppress(_nats_error(), TimeoutError):
                if self._closed:  # all that was fetched comes again at once, also what the server sends just now
                    async with asyncio.timeout(1.0):
                        await ear.drain()  # type: ignore[no-untyped-call]  # so it is in nats-py
                    await self._say_of_waiting(line, b"-NAK")
                else:
                    await ear.unsubscribe()

    async def _bind(self, line: "_Line", *, anew: bool = False) -> None:
        """Have the stream and the consumer, however long it takes; `anew` forgets what was handed out."""
        import asyncio

        name = self._config["durable_name"]
        path = ".".join(filter(None, (self._stream, name, self._config.get("filter_subject"))))
        question = {"stream_name": self._stream, "config": self._config}
        while True:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._wire.furnish_again(line, self._stream)
                    if anew:
                        with suppress(NotFound):
                            await _ask(line, f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}")
                    found = await _ask(line, f"$JS.API.CONSUMER.CREATE.{path}", question)
            except (RaviError, TimeoutError, _nats_error()) as fault:
                self._wire.fault = f"consumer {name} of {self._stream}: {_in_words(fault)}"
                await asyncio.sleep(_LONGEST)
            else:
                break
        if found["created"] != self.born:
            self._waiting.clear()  # their numbers would settle other messages now
            self.born = found["created"]

    async def _pull(self, line: "_Line", inbox: str, news: "asyncio.Event") -> None:
        """Fetch as room becomes free, until the server knows the consumer no longer."""
        import asyncio

        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._config['durable_name']}"
        wait = self._config["ack_wait"] / 1e9 / 3
        touched = self._heard = time.monotonic()
        self._left, self._gone = 0, False
        while not self._gone:
            news.clear()
            with self._changed:  # it goes from waiting to being handled in one step
                room = self._most - len(self._waiting) - self._busy
            if self._left <= 0 and room >= (self._most + 1) // 2:
                self._left = room
                pull = {"batch": room, "expires": _ns(_EXPIRES), "idle_heartbeat": _ns(_HEARTBEAT)}
                await line.client.publish(subject, json.dumps(pull).encode(), reply=inbox)
                self._heard = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, _HEARTBEAT)):
                    await news.wait()
            now = time.monotonic()
            if now - touched >= wait:  # else the server would hand out again what waits for its turn here
                touched = now
                await self._say_of_waiting(line, b"+WPI")
            self._gone |= self._left > 0 and now - self._heard > 3 * _HEARTBEAT
        await asyncio.sleep(_PAUSE)

    async def _arrived(self, msg: "Msg") -> None:
        self._heard = time.monotonic()
        if msg.reply:
            known = msg.metadata
            self._left -= 1
            self._add(
                Message(
                    msg.subject, msg.data, msg.headers or {}, "", known.stream, known.sequence.stream,
                    known.num_delivered, known.timestamp, _Receipt(self._wire, self, msg.reply, self.born),
                )
            )  # fmt: skip
        elif (status := (msg.headers or {}).get("Status")) != "100":  # no heartbeat: the pull is over
            self._left = 0
            self._gone |= status not in ("404", "408")  # nothing there, or its time is over
        if self._left <= 0:
            self._handled()

    def _handled(self) -> None:
        if self._left <= 0 and self._stir is not None:
            self._wire.soon(self._stir)

    async def _say_of_waiting(self, line: "_Line", word: bytes) -> None:
        for message in tuple(self._waiting):
            if message._receipt is not None:  # noqa: SLF001 - neighbours in one module
                await line.client.publish(message._receipt.subject, word)  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class _Receipt:
    """Where a message that was handed out is settled."""

    wire: "_Wire"
    consumer: _Consumer
    subject: str
    born: str

    def settle(self) -> None:
        self._check()
        try:
            self.wire.call(lambda line: _answer(line, self.subject, b"+ACK", None), self.subject)
        except TimedOut as fault:
            raise Unavailable(fault.message) from None

    def say(self, word: bytes) -> None:
        self._check()
        self.wire.call(lambda line: line.client.publish(self.subject, word), self.subject)

    def _check(self) -> None:
        if self.born != self.consumer.born:
            raise Unavailable(f"{self.subject}: the server lost the stream that held it, or hands it out anew")


class _Line(NamedTuple):
    """One connection, and the future that is done when it ends."""

    client: "Client"
    ended: "asyncio.Future[None]"


class _Wire:
    """The loop, its thread, and the connection of the moment."""

    def __init__(self, address: Address, on_change: Callable[[bool], None] | None) -> None:
        self.ready = threading.Event()
        if not (places := [_place(url) for url in address.urls]):
            raise UsageError("nats: there is no url", hint="write nats://HOST:PORT")
        self.url = places[0]
        self.fault = "the link was not started"
        self.life = 0
        self._address = address
        self._on_change = on_change
        self._gate = threading.Lock()  # nothing reaches the loop after it was closed
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)
        self._configs: dict[str, dict[str, Any]] = {}  # of streams that shall be there
        self._line: _Line | None = None
        self._main: asyncio.Task[None] | None = None
        self._feeds: dict[Subscription, asyncio.Task[None] | None] = {}  # who listens, and by which task it is fed

    def start(self) -> None:
        import asyncio

        self.fault = "not connected yet"
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def close(self) -> None:
        for subscription in tuple(self._feeds):
            subscription.close()
        with self._gate:
            self._closed = True
            if self._thread.is_alive() and self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop)
        if self._thread.is_alive():
            self._thread.join()

    def do(self, work: Callable[[], Coroutine[Any, Any, _T]], place: str) -> _T:
        """Do something in the loop's thread, and wait for it."""
        import asyncio
        from concurrent.futures import CancelledError

        with self._gate:
            if self._loop is None or self._closed:
                raise Unavailable(f"nats: {'the link was closed' if self._closed else self.fault}")
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable(f"{place}: the link was closed before the answer came") from None

    def soon(self, step: Callable[[], None]) -> None:
        """Have the loop's thread take a step, unless it is closed."""
        with self._gate:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(step)

    def call(self, work: Callable[[_Line], Coroutine[Any, Any, _T]], place: str, timeout: float = _PATIENCE) -> _T:
        """Do something with the connection. Unavailable when there is none, or it ends meanwhile."""
        return self.do(lambda: self._race(work, place, timeout), place)

    def ask(
        self,
        subject: str,
        question: bytes | Mapping[str, Any] = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = _PATIENCE,
    ) -> dict[str, Any]:
        """What JetStream answers."""
        try:
            return self.call(lambda line: _ask(line, subject, question, headers), subject, timeout)
        except TimedOut as fault:
            raise Unavailable(fault.message) from None

    def stored(self, stream: str, which: Mapping[str, Any]) -> Message | None:
        """One message as it lies in a stream."""
        try:
            found = self.ask(f"$JS.API.STREAM.MSG.GET.{stream}", which)["message"]
        except NotFound:
            return None
        return Message(
            found["subject"],
            base64.b64decode(found.get("data", "")),
            _headers(base64.b64decode(found.get("hdrs", "")).decode()),
            stream=stream,
            seq=found["seq"],
            when=datetime.fromisoformat(found["time"]),
        )

    def furnish(self, config: dict[str, Any]) -> StreamState:
        """Have a stream, now and whenever the server comes back."""
        self._configs[config["name"]] = config
        return self.call(lambda line: _ensure(line, config), config["name"])

    async def furnish_again(self, line: _Line, stream: str) -> None:
        if stream in self._configs:
            await _ensure(line, self._configs[stream])

    def listen(self, subscription: Subscription) -> Subscription:
        """Feed a subscription from now on, over every connection."""
        self._feeds[subscription] = None
        self.soon(self._feed)
        if self.ready.is_set():
            subscription.begun.wait(_PATIENCE)
        return subscription

    def dismiss(self, subscription: Subscription) -> None:
        """Feed it no longer; on return nothing is added to it any more."""
        import asyncio

        async def leave() -> None:
            task = self._feeds.pop(subscription, None)
            if task is not None:
                task.cancel()
                await asyncio.wait((task,), timeout=_PATIENCE)

        try:
            self.do(leave, "nats")
        except Unavailable:  # it was not started, or is closed
            self._feeds.pop(subscription, None)

    def _feed(self) -> None:
        if self._line is not None and self._loop is not None:
            for subscription, task in tuple(self._feeds.items()):
                if task is None:
                    self._feeds[subscription] = self._loop.create_task(subscription.feed(self._line))

    def _run(self) -> None:
        import asyncio

        loop = self._loop
        assert loop is not None
        with asyncio.Runner(loop_factory=lambda: loop) as runner, suppress(asyncio.CancelledError):
            runner.run(self._live())

    def _stop(self) -> None:
        if self._main is not None:  # else it will see for itself that it is closed
            self._main.cancel()

    async def _live(self) -> None:
        import asyncio

        self._main = asyncio.current_task()
        turn, pause = 0, _PAUSE
        while not self._closed:
            url = self._address.urls[turn % len(self._address.urls)]
            line = _line()
            try:
                if await self._dial(line, url) and await self._furnish_all(line):
                    pause = _PAUSE
                    await self._serve(line)
            finally:
                await _hang_up(line.client)
            turn += 1
            if turn % len(self._address.urls) == 0:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST)

    async def _dial(self, line: _Line, url: str) -> bool:
        import asyncio

        from nats.errors import NoServersError

        self.url = _place(url)

        async def failed(fault: Exception) -> None:
            self.fault = f"{self.url}: {_in_words(fault)}"

        address = self._address
        try:
            async with asyncio.timeout(2 * _CONNECT):
                await line.client.connect(
                    [url],
                    name=address.name,
                    error_cb=failed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=_PAUSE,  # type: ignore[arg-type]  # it is slept, so parts of seconds are fine
                    connect_timeout=_CONNECT,  # type: ignore[arg-type]  # the same
                    ping_interval=_PING,
                    max_outstanding_pings=_UNANSWERED,
                    token=address.token or None,
                    user=address.user or None,
                    password=address.password or None,
                    user_credentials=address.creds or None,
                    tls=_tls(address),
                )
        except NoServersError:  # and `failed` has heard why
            return False
        except Exception as fault:  # noqa: BLE001 - whatever it is: it is told, and tried again
            await failed(fault)
            return False
        return True

    async def _furnish_all(self, line: _Line) -> bool:
        """Have every stream that was asked for; False when the server cannot make one now."""
        import asyncio

        for config in tuple(self._configs.values()):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await _ensure(line, config)
            except Refused:  # it is there and stays what it is; who ensures it is told
                pass
            except (RaviError, TimeoutError, _nats_error()) as fault:
                self.fault = f"{self.url}: stream {config['name']}: {_in_words(fault)}"
                return False
        return True

    async def _serve(self, line: _Line) -> None:
        self._line, self.fault = line, ""
        self.life += 1
        self.ready.set()
        try:
            self._feed()
            await self._tell(connected=True)
            await line.ended
        finally:
            self.fault = self.fault or f"{self.url}: the connection ended"
            self._line = None
            self.ready.clear()
            for subscription, task in tuple(self._feeds.items()):
                if task is not None:
                    task.cancel()
                self._feeds[subscription] = None
        await self._tell(connected=False)

    async def _tell(self, *, connected: bool) -> None:
        import asyncio

        if self._on_change is not None:
            try:
                await asyncio.to_thread(self._on_change, connected)
            except Exception:
                log.exception("nats: on_change failed")

    async def _race(self, work: Callable[[_Line], Coroutine[Any, Any, _T]], place: str, timeout: float) -> _T:
        import asyncio

        line = self._line
        if line is None:
            raise Unavailable(f"nats: {self.fault}", hint="it is tried again by itself")
        task = asyncio.create_task(work(line))
        try:
            await asyncio.wait((task, line.ended), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        except _nats_error() as fault:
            raise _translated(fault, place) from fault
        finally:
            task.cancel()
        if line.ended.done():
            raise Unavailable(f"{place}: the connection ended before the answer came")
        raise TimedOut(f"{place}: no answer within {timeout:g} s")


def _line() -> _Line:
    """A connection that was not made yet. Whatever ends it passes `_close`, which may then fail, or hang."""
    import asyncio

    from nats.aio.client import Client

    ended = asyncio.get_running_loop().create_future()

    class OneLife(Client):
        async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's
            if not ended.done():
                ended.set_result(None)
            with suppress(OSError):  # of sending what is left to a server that is gone
                await super()._close(status, do_cbs)

    return _Line(OneLife(), ended)


async def _hang_up(client: "Client") -> None:
    import asyncio

    with suppress(Exception):
        async with asyncio.timeout(1.0):
            await client.close()
    # A server that is frozen never takes what is left to send, and then nats-py leaves the socket open.
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - see above
    if writer is not None:
        writer.transport.abort()
        await asyncio.sleep(0)


async def _answer(line: _Line, subject: str, data: bytes, headers: Mapping[str, str] | None) -> bytes:
    forever: Any = None  # whoever asks has a limit of their own
    return (await line.client.request(subject, data, timeout=forever, headers=dict(headers) if headers else None)).data


async def _ask(
    line: _Line, subject: str, question: bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    return _good(await _hear(line, subject, question, headers), subject)


async def _hear(
    line: _Line, subject: str, question: bytes | Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    data = question if isinstance(question, bytes) else json.dumps(question).encode()
    found: dict[str, Any] = json.loads(await _answer(line, subject, data, headers))
    return found


def _good(found: dict[str, Any], place: str) -> dict[str, Any]:
    """An answer of JetStream, unless it is a refusal."""
    if "error" not in found:
        return found
    code, number = found["error"].get("code"), found["error"].get("err_code")
    words = f"{place}: {found['error'].get('description', 'refused')}"
    if code == 404:
        raise NotFound(words)
    if number in _WRONG_LAST:
        raise Conflict(words)
    raise Refused(words) if code == 400 or number == _NOT_CHANGED else Unavailable(words)


async def _ensure(line: _Line, config: Mapping[str, Any]) -> StreamState:
    name = config["name"]
    found = await _hear(line, f"$JS.API.STREAM.CREATE.{name}", config)
    if found.get("error", {}).get("err_code") == _NAME_TAKEN:
        present = await _ask(line, f"$JS.API.STREAM.INFO.{name}")
        found = await _hear(line, f"$JS.API.STREAM.UPDATE.{name}", {**present["config"], **config})
    return _state(_good(found, f"stream {name}"))


def _state(found: Mapping[str, Any]) -> StreamState:
    config, state = found["config"], found["state"]
    return StreamState(
        config["name"], found["created"], state["first_seq"], state["last_seq"], state["messages"], state["bytes"]
    )


def _headers(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.split("\r\n")[1:] if line)
    return {name.strip(): value.strip() for name, _, value in lines}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _place(url: str) -> str:
    """A server's url without what opens it."""
    try:
        found = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = found.hostname, found.port or 4222
    except ValueError:
        host = None
    if not host or found.scheme not in ("nats", "tls"):
        raise UsageError(f"`{url.rpartition('@')[2]}` is no address of a NATS server", hint="write nats://HOST:PORT")
    return f"{found.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _tls(address: Address) -> "ssl.SSLContext | None":
    if not (address.ca or address.cert):
        return None
    import ssl

    context = ssl.create_default_context(cafile=address.ca or None)
    if address.cert:
        context.load_cert_chain(address.cert, address.key or None)
    return context


def _nats_error() -> type[Exception]:
    from nats.errors import Error

    return Error


def _translated(fault: Exception, place: str) -> RaviError:
    from nats import errors

    match fault:
        case errors.NoRespondersError():
            return Unavailable(f"{place}: nobody answers there")
        case errors.MaxPayloadError():
            return Refused(f"{place}: the message is larger than the server takes")
        case errors.BadSubjectError() | errors.BadHeaderError():
            return UsageError(f"{place}: {_in_words(fault)}")
    return Unavailable(f"{place}: {_in_words(fault)}")


def _in_words(fault: BaseException) -> str:
    match fault:
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "nobody listens there"
        case ModuleNotFoundError(name="nkeys"):
            return "a creds file needs the package nkeys: pip install 'nats-py[nkeys]'"
    words = str(fault).removeprefix("nats: ").strip("'") or type(fault).__name__
    return "it does not accept these credentials" if "Authorization Violation" in words else words
