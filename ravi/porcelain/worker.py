"""A worker: a clone that carries out runs for the one that leads, and nothing else.

The branch of a run is the order and the answer: it is fetched as the leader claimed it, and pushed with its end on top,
if it still stands where it stood. When it does not, the leader has given this worker up, and what it made is not taken.
"""

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, NoReturn, TypeVar

from ravi.app import SETTINGS, App, clock
from ravi.bus.nats import Address, Link, Message, StreamSpec, Subscription
from ravi.core.subjects import named, safe
from ravi.core.times import stamp
from ravi.engine.perform import Performer
from ravi.errors import Conflict, NotFound, RaviError, Refused, TimedOut, Unavailable, UsageError
from ravi.porcelain.crew import BEAT, LOST
from ravi.porcelain.nats import address_of
from ravi.porcelain.sync import sync
from ravi.runners.base import Result
from ravi.runners.command import CommandRunner
from ravi.runners.process import Processes, sweep
from ravi.runners.scripted import ScriptedRunner
from ravi.store.locks import Leader
from ravi.store.refs import RUNS
from ravi.store.remote import Moved, Remote, Update, clone, clone_id, read_lead

_T = TypeVar("_T")
_LONG = 60.0  # seconds for one fetch or push
_AGAIN = 2.0  # seconds until a remote that was away is asked again
_SILENT = 5.0  # seconds without a sign of life after which another worker of this name is dead
_LATE = 2 * BEAT  # seconds in which an order may still come that was sent before our draining was known
_PATIENCE = 30.0  # seconds that our end waits for the ends of runs


def opened(folder: str, remote: str, environ: Any) -> App:
    """The clone in `folder`, made when there is nothing yet. Raises UsageError, NotFound, Refused, Unavailable."""
    place = os.path.realpath(folder)
    if not os.path.isdir(place) or not os.listdir(place):
        if not remote:
            raise UsageError(f"{folder}: there is no clone yet", hint="say of what: `ravi worker --remote URL DIR`")
        clone(remote, place)
    elif not os.path.exists(os.path.join(place, SETTINGS)):
        raise NotFound(f"{folder}: no workspace here, {SETTINGS} is missing", hint="name an empty folder, or a clone")
    return App.find(place, environ)


def work(app: App, *, name: str, slots: int, urls: tuple[str, ...], say: Callable[[str], None]) -> dict[str, Any]:
    """Carry out runs until a signal, or until drained. Returns what came of it."""
    app.permit_operator("worker")
    name = safe(name or os.uname().nodename)
    if not name:
        raise UsageError("a worker needs a name with letters or digits")
    settings = app.settings.nats
    address = address_of(settings._replace(off=False, urls=urls) if urls else settings, app.environ)
    if address is None:
        raise UsageError("it is not known where NATS is", hint="`--nats URL`, NATS_URL, or `nats:` in ravi.yaml")
    repository = app.repository
    remote = Remote(repository.dirs, repository.refs, app.settings.remote)
    remote.check()
    leader = Leader(repository.dirs.common_dir)
    leader.acquire(stamp(app.now()))
    with ExitStack() as ending:
        ending.callback(leader.release)
        processes = Processes()
        ending.callback(processes.close)
        repository.lead(f"worker {name}, pid {os.getpid()}")
        _begin_clean(app, remote)
        worker = Worker(app, remote, processes, address, name, slots, say)
        ending.callback(worker.close)
        with _signals(worker.stop):
            return worker.run()


class _Order(NamedTuple):
    """What the leader says: whose branch is ours, and where it stands."""

    run: str
    commit: str
    agent: str
    instance: str


class Worker:
    """One process: it says that it lives, takes orders, and hands back what came of them."""

    def __init__(
        self,
        app: App,
        remote: Remote,
        processes: Processes,
        address: Address,
        name: str,
        slots: int,
        say: Callable[[str], None],
    ) -> None:
        self.name, self.slots, self.done = name, slots, 0
        self.draining = False
        self._app, self._remote, self._say = app, remote, say
        self._names = named(app.settings.name)
        self._link = Link(address)
        self._instance = os.urandom(6).hex()
        self._revision = 0
        self._inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the performer and the main line
        self._runs: dict[str, threading.Thread] = {}
        self._results: dict[str, queue.SimpleQueue[Result]] = {}
        self._brought = app.repository.tip()
        self._bringing: threading.Thread | None = None
        self._reason = ""
        self._closing = threading.Event()  # our own end does not wait for a remote that is away
        self._open: list[Subscription] = []
        self._said: dict[str, str] = {}
        self._performer = Performer(
            app.repository,
            {"command": CommandRunner(processes), "scripted": ScriptedRunner(processes)},
            self._ended,
            now=app.now,
            environ=app.environ,
            max_output=app.settings.max_output,
        )

    def stop(self, reason: str) -> None:
        """End soon; safe in a signal handler."""
        self._reason = self._reason or reason
        self._inbox.put("stop")

    def run(self) -> dict[str, Any]:
        """Work until told to end."""
        self._link.start()
        self._say(f"worker {self.name}: {self.slots} slots, {self._app.root}; Ctrl-C ends it")
        self._bucket = self._link.bucket(self._names.bucket("workers"), ttl=LOST)
        idle_since = clock()
        while not self._reason:
            if self._link.connected:
                self._beat()
            if self._runs or not self.draining:
                idle_since = clock()
            elif clock() - idle_since >= _LATE:
                self._reason = "drained"
            self._bring_soon()
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=BEAT)
                while True:
                    self._inbox.get_nowait()
        self._finish()
        return {"name": self.name, "done": self.done, "said": self._reason}

    def close(self) -> None:
        """Let go of the link."""
        for one in self._open:
            one.close()
        self._link.close()

    # -- signs of life

    def _beat(self) -> None:
        """Say that we live, and what we have. Whoever else has our name by now has taken over: raises Refused."""
        try:
            if not self._open:
                self._enter()
            try:
                self._revision = self._bucket.update(self.name, self._entry(), self._revision)
            except Conflict:
                self._look_who()
        except (Unavailable, TimedOut, NotFound) as fault:
            self._note("NATS", str(fault))
        else:
            self._note("NATS", "")

    def _enter(self) -> None:
        """Begin, once it is sure that nobody else of this name lives."""
        end = clock() + _SILENT
        held = first = self._bucket.get(self.name)
        while held is not None and first is not None and clock() < end:
            if held.revision != first.revision:
                _raise_taken(self.name)
            time.sleep(0.2)
            held = self._bucket.get(self.name)
        stream = StreamSpec(self._names.stream("RUN"), (self._names.orders(">"),), "workqueue")
        self._link.ensure(stream)
        try:
            self._revision = self._bucket.update(self.name, self._entry(), held.revision if held is not None else 0)
        except Conflict:
            _raise_taken(self.name)
        mine = f"{self._names.orders()}.{self.name}"
        self._open = [
            self._link.subscribe(self._names.worker(self.name), self._told),
            self._link.consume(stream.name, f"worker-{self.name}", self._ordered, subject=mine, ahead=0),
        ]
        self._say(f"worker {self.name}: takes orders")

    def _look_who(self) -> None:
        held = self._bucket.get(self.name)
        if held is None:  # we were silent for so long that we were forgotten
            self._revision = self._bucket.update(self.name, self._entry(), 0)
        elif json.loads(held.value).get("instance") == self._instance:
            self._revision = held.revision
        else:
            _raise_taken(self.name)

    def _entry(self) -> bytes:
        runs = sorted(self._runs)
        said = {
            "name": self.name,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "instance": self._instance,
            "slots": self.slots,
            "busy": len(runs),
            "draining": self.draining,
            "seen": stamp(self._app.now()),
            "runs": runs,
        }
        return json.dumps(said, ensure_ascii=False).encode()

    # -- what comes in; in threads of the link

    def _told(self, message: Message) -> None:
        """The leader, or a person, wants something of us."""
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(message.data)
            match said.get("verb"):
                case "stop":
                    if str(said.get("run")) in self._runs:
                        self._performer.stop(str(said["run"]), str(said.get("reason") or "stopped"))
                case "drain":
                    self.draining = True
                    self._inbox.put("drain")
                    self._say(f"worker {self.name}: drains; it takes no more runs and ends when it has none")
            if message.reply:
                self._link.send(message.reply, b"{}")

    def _ordered(self, message: Message) -> None:
        """Take an order. From here on our sign of life speaks for the run, and not the message."""
        try:
            said = json.loads(message.data)
            order = _Order(str(said["run"]), str(said["commit"]), str(said["agent"]), str(said["instance"]))
        except (ValueError, KeyError, TypeError):
            message.term("it cannot be read")
            return
        message.ack()
        if order.run in self._runs:
            return
        if order.instance != self._instance:
            self._say(f"run {order.run}: was for the process that had this name before")
            return
        thread = threading.Thread(target=self._carry, args=(order,), name=f"order {order.run}", daemon=True)
        self._runs[order.run] = thread
        thread.start()
        self._inbox.put("order")

    # -- one run, in a thread of its own

    def _carry(self, order: _Order) -> None:
        try:
            self._carried(order)
        except (RaviError, OSError) as fault:
            self._say(f"run {order.run}: {fault}")
        finally:
            with self._lock:
                self._performer.drop(order.run)
            self._results.pop(order.run, None)
            del self._runs[order.run]
            self._inbox.put("end")
            self._tell_news()

    def _carried(self, order: _Order) -> None:
        """From the order to the pushed end."""
        results = self._results[order.run] = queue.SimpleQueue()
        self._until_it_works(self._bring)
        if self._there(order.run) != order.commit:
            self._say(f"run {order.run}: was given up by who leads before it began")
            return
        repository, ref = self._app.repository, RUNS + order.run
        with self._lock:
            if (old := repository.refs.read(ref)) is not None:
                repository.refs.delete(ref, old)
            repository.refs.create(ref, order.commit)
            run = repository.run_on_branch(order.run)
            if run is None:
                raise NotFound(f"run {order.run}: its branch says nothing that can be read")
            self._say(f"run {order.run}: started by {order.agent}")
            with repository.view() as view:
                self._performer.take(run, view)
        result = results.get()
        tip = self._until_it_works(lambda: self._handed_back(order.run, result))
        if repository.tip() != self._brought:  # what it asked of ravi is to be there before its end
            self._until_it_works(self._bring)
        try:
            self._until_it_works(lambda: self._remote.push([Update(ref, tip, order.commit)], timeout=_LONG))
        except Moved:
            self._say(f"run {order.run}: {result.status}, too late: it was given up by who leads, and is not taken")
            return
        self.done += 1
        self._say(f"run {order.run}: {result.status}" + (f", {result.reason}" if result.reason else ""))

    def _handed_back(self, run: str, result: Result) -> str:
        with self._lock:
            tip = self._performer.hand_back(run, result)
            self._app.repository.objects.flush()
            return tip

    def _ended(self, run: str, result: Result) -> None:
        self._results[run].put(result)

    def _until_it_works(self, step: Callable[[], _T]) -> _T:
        """Do it again while something that is needed is away."""
        while True:
            try:
                done = step()
            except Unavailable as fault:
                self._note("remote", str(fault))
                if self._closing.wait(_AGAIN):
                    raise
            else:
                self._note("remote", "")
                return done

    def _there(self, run: str) -> str | None:
        return self._remote.seen(self._app.repository.branch).runs.get(run)

    # -- the main line

    def _bring(self) -> None:
        """Bring what was recorded here to the remote, and what is there here."""
        with self._lock:
            sync(self._app, timeout=_LONG, take=False)
            self._brought = self._app.repository.tip()

    def _bring_soon(self) -> None:
        """A comment, or a task for another agent, is not kept until the end of the run that made it."""
        is_free = self._bringing is None or not self._bringing.is_alive()
        if self._runs and is_free and self._app.repository.tip() != self._brought:
            self._bringing = threading.Thread(target=self._bring_now, name="ravi-worker-sync", daemon=True)
            self._bringing.start()

    def _bring_now(self) -> None:
        try:
            self._bring()
        except (RaviError, OSError) as fault:
            self._note("remote", str(fault))
        else:
            self._tell_news()

    def _tell_news(self) -> None:
        with contextlib.suppress(RaviError):  # who leads looks by itself too
            self._link.send(self._names.worker("news"), b"{}")

    # -- the end

    def _finish(self) -> None:
        """Stop what runs, hand it back, and say that we are gone."""
        self.draining = True
        if self._open and self._link.connected:
            self._beat()  # before anything is handed back: nothing shall be given to us instead
        for one in self._open:
            one.close()
        self._open = []
        for run in list(self._runs):
            self._performer.stop(run, "its worker ended")
        end = clock() + _PATIENCE
        for thread in list(self._runs.values()):
            thread.join(max(0.0, end - clock()))
        self._closing.set()
        with contextlib.suppress(RaviError):
            if self._revision:
                self._bucket.delete(self.name)
        self._say(f"worker {self.name}: ended, {self._reason}")

    def _note(self, about: str, said: str) -> None:
        """Say a lasting state when it begins and when it ends."""
        if self._said.get(about, "") != said:
            self._said[about] = said
            self._say(f"{about}: {said or 'goes on'}")


def _raise_taken(name: str) -> NoReturn:
    """Raise Refused: two processes cannot have one name."""
    raise Refused(f"another worker is called `{name}`", hint="`--name` gives this one another name")


def _begin_clean(app: App, remote: Remote) -> None:
    """Stand where the remote stands, without anything that a former process left. Raises Refused where nobody leads."""
    repository = app.repository
    repository.adopt()
    there = remote.fetch(repository.branch, timeout=_LONG)
    lead = read_lead(repository.objects, there.leader)
    if lead is None:
        raise Refused(f"nobody leads at {remote.name}", hint="`ravi sync` in the clone that shall lead comes first")
    if lead.clone == clone_id(repository.beside):
        raise Refused("this clone leads", hint="`max_runs` says how much it does itself; a worker is another clone")
    sync(app, timeout=_LONG, take=False)
    for name, oid in repository.refs.list(RUNS).items():
        sweep(name.removeprefix(RUNS), repository.root)
        with contextlib.suppress(Conflict):
            repository.refs.delete(name, oid)
    for left in repository.lanes.leftover():
        repository.lanes.remove(left)
    for left in repository.noted():
        repository.forget(left, branch=False)


@contextmanager
def _signals(stop: Callable[[str], None]) -> Iterator[None]:
    """TERM, INT and HUP end it in order; a second INT ends the process at once."""

    def ask(number: int, _frame: object) -> None:
        stop(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
