"""The loop of `ravi up`: look, record, decide, perform, publish. One thread decides; the others only report to it."""

import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ravi.bus.base import Bus, Delivery
from ravi.core import event as kinds
from ravi.core.event import Event
from ravi.core.ids import derive_id
from ravi.core.run import Run, ref
from ravi.core.times import stamp
from ravi.engine.actions import Launch, Stop, WakeAt
from ravi.engine.decide import decide
from ravi.engine.perform import Performer
from ravi.errors import Deposed, RaviError, Unavailable
from ravi.runners.base import Result
from ravi.store.ingest import Recorded
from ravi.store.refs import Head
from ravi.store.repository import Reading, Repository

SCAN_EVERY = 60.0  # seconds between looks at every file, whatever the doorbell says
PATIENCE = 15.0  # seconds that an end waits for its runs
PULSE = 2.0  # seconds between looks at the refs: what another process recorded is seen even where nothing rings
ROOM, FILES = 4 << 20, 64  # bytes and files that must be free before a run is started
GATHER = 0.02  # seconds that publishing waits for more to write out; by then an agent that is wanted has started
RECHECK = 0.2  # seconds between looks at something that holds us up: a lock, a merge under way, a file being saved


class Bell(Protocol):
    """What the loop needs of the doorbell."""

    def watch(self, folders: Iterable[str]) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loop may do at most, and how long it waits."""

    max_runs: int = 4  # here; what workers carry out does not count
    max_depth: int = 24
    quiet: float = 1.0
    ingests: bool = True
    follows: str = ""  # which other clone leads, in words: then nothing is decided or started here


@dataclass(slots=True)
class Outcome:
    """What the loop came to: `died` are runs that ended as dead letters, `held` says what could not be finished."""

    died: list[str] = field(default_factory=list)
    held: str = ""
    timed_out: bool = False


class Loop:
    """Everything a workspace does by itself, until told to stop, until idle (if asked), or until the deadline."""

    def __init__(
        self,
        repository: Repository,
        bus: Bus,
        performer: Callable[[Callable[[str, Result], None]], Performer],
        bell: Callable[[Callable[[frozenset[str]], None]], Bell],
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        limits: Callable[[], Limits],
        say: Callable[[str], None],
        turned: Callable[[], None] = lambda: None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """`turned` is called at every turn, `moved` when something was recorded; both must be quick."""
        self.repository = repository
        self.bus = bus
        self.now = now
        self.monotonic = monotonic
        self.limits = limits()
        self._read_limits = limits
        self.say = say
        self._turned = turned
        self._moved = moved
        self.outcome = Outcome()
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._performer = performer(lambda run, result: self._inbox.put(_Ended(run, result)))
        self._make_bell = bell
        self._publishing = _Publishing(repository, self._inbox.put)
        self._ready: dict[str, Launch] = {}  # task -> what waits for room
        self._wakes: dict[str, datetime] = {}  # task -> when to look at it again
        self._look_at: set[str] | None = None  # what to look at next; None = everything
        self._look_next = 0.0  # when to look, monotonic; infinity = nothing to look at
        self._next_scan = 0.0
        self._unfinished: dict[str, tuple[float, Result]] = {}  # runs whose end could not be recorded yet
        self._problems: dict[str, str] = {}  # files that could not be taken, and why
        self._branches: dict[str, str | None] = {}  # runs under way -> the tip of their branch that was heeded
        self._stopping = ""
        self._tip: str | None = None
        self._head: Head | None = None
        self._said: dict[str, str] = {}

    def stop(self, reason: str) -> None:
        """End soon: running agents are stopped, and run again at the next start. Safe in a signal handler."""
        self._inbox.put(_Stop(reason))

    def runs(self) -> list[Run]:
        """What is under way here; a copy, so that any thread may ask."""
        return [running.run for running in list(self._performer.running.values())]

    def queue(self) -> dict[str, int]:
        """How many tasks wait for room, and how many for a moment. Any thread may ask."""
        return {"ready": len(self._ready), "waiting": len(self._wakes)}

    def run(self, *, until_idle: bool = False, deadline: float | None = None) -> Outcome:
        """Work. The caller holds the leader lock and has begun an epoch. `deadline` is monotonic."""
        self.repository.publisher.finish()  # after an unclean end: first restore what was being written out, then look
        with self.repository.view() as view:
            self._performer.recover(view)
        self._note("clones", self.limits.follows)
        bell = self._make_bell(lambda paths: self._inbox.put(_Look(paths)))
        self._publishing.start()
        try:
            bell.watch(self.repository.folders_to_watch())
            self._take()
            self._reconsider()
            self._follow()
            self._launch()
            self._link(None)
            while not self._is_over(until_idle, deadline):
                self._wait(deadline)
                self._take()
                self._follow()
                self._heed_branches()
                self._wake()
                self._launch()
        except Deposed:
            self._performer.abandon()
            raise
        finally:
            bell.close()
            self._drain()
        return self.outcome

    # -- one turn, step by step

    def _wait(self, deadline: float | None) -> None:
        """Until something is reported or falls due; then heed all that has been reported."""
        wait = min(self._moments(deadline)) - self.monotonic()
        try:
            self._heed(self._inbox.get(timeout=max(0.0, wait)))
            while True:
                self._heed(self._inbox.get_nowait())
        except queue.Empty:
            pass
        followed, self.limits = self.limits.follows, self._read_limits()
        if followed != self.limits.follows:
            self._change_hands()
        self._turned()
        now = self.monotonic()
        for run, (moment, result) in list(self._unfinished.items()):
            if moment <= now:
                self._finish(run, result)

    def _change_hands(self) -> None:
        """Another clone leads from now on; or we do, and what it had under way ends here."""
        self._note("clones", self.limits.follows)
        self._ready.clear()
        self._wakes.clear()
        if not self.limits.follows:
            with self.repository.view() as view:
                self._performer.recover(view)
            self._reconsider()

    def _moments(self, deadline: float | None) -> Iterator[float]:
        yield self.monotonic() + PULSE
        yield self._next_scan
        yield self._look_next
        yield from (moment for moment, _ in self._unfinished.values())
        if (due := self.bus.due()) is not None:
            yield due
        if deadline is not None:
            yield deadline
        if self._wakes:
            yield self.monotonic() + (min(self._wakes.values()) - self.now()).total_seconds()

    def _heed(self, message: object) -> None:
        match message:
            case _Look(paths):
                self._look(paths)
            case _Ended(run, result):
                self._finish(run, result)
            case _Stop(reason):
                self._stopping = self._stopping or reason
            case _Published(fault):
                self._note("main line", fault)

    def _finish(self, run: str, result: Result) -> None:
        """Record how a run ended. Where that is not possible now (a full disk), it is tried again until it is."""
        try:
            self._performer.finish(run, result)
        except Unavailable as fault:
            self._note("disk", str(fault))
            self._unfinished[run] = (self.monotonic() + RECHECK * 5, result)
        else:
            self._unfinished.pop(run, None)
            self._note("disk", "")

    def _look(self, paths: frozenset[str]) -> None:
        """Have these files looked at, when they have had time to settle."""
        files = {path for path in paths if not path.startswith(".git/")}
        if "" in files:
            self._look_at = None
        elif self._look_at is not None:
            self._look_at |= files
        if files:
            self._look_next = min(self._look_next, self.monotonic())

    def _take(self) -> None:
        """Record what people saved, once it lies still."""
        now = self.monotonic()
        if now >= self._next_scan:
            self._look_at, self._look_next, self._next_scan = None, now, now + SCAN_EVERY
        if now < self._look_next:
            return
        if not self.limits.ingests:
            self._look_at, self._look_next = set(), float("inf")
            return
        try:
            taken = self.repository.settle(self._look_at, now, self.limits.quiet)
        except Unavailable as fault:
            self._note("files", str(fault))
            self._look_next = now + RECHECK * 5
            return
        self._note("files", taken.paused)
        self._mind(taken)
        if not taken.paused:
            self._look_at = set(taken.waiting)
        self._look_next = taken.again

    def _mind(self, taken: Recorded) -> None:
        """Keep in mind, and say, what could not be taken of the files that were just looked at."""
        before = dict(self._problems)
        for path in list(self._problems):
            if self._look_at is None or path in self._look_at:
                del self._problems[path]
        self._problems |= {problem.path: problem.message for problem in taken.problems}
        for path, message in self._problems.items():
            if before.get(path) != message:
                self._say(f"{path}: {message}")
        if before != self._problems:
            self._note_problems()

    def _note_problems(self) -> None:
        with self.repository.view() as view:
            self.repository.note_problems(self._problems, view)

    def _follow(self) -> None:
        """Decide about everything that was recorded since the last time, by whomever."""
        head = self.repository.refs.head()
        if head != self._head:  # a person committed, or went to another branch
            self._head = head
            self._publishing.ask()
        tip = self.repository.tip()
        due = self.bus.due()
        if tip == self._tip and (due is None or due > self.monotonic()):
            return
        self._moved()
        touched: set[str] = set()
        while deliveries := self.bus.receive(64):
            answered = [delivery for delivery in deliveries if self._answer(delivery)]
            self._launch()  # first of all: the rest takes time that an agent can work in
            for delivery in answered:
                delivery.ack()
            touched.update(one.event.subject for one in deliveries if one.event.type.startswith("task."))
        self._link(touched)
        self._tip = tip
        self._publishing.ask()
        self._note_problems()

    def _link(self, tasks: Collection[str] | None) -> None:
        with self.repository.view() as view:
            self.repository.link_open(view, tasks)

    def _answer(self, delivery: Delivery) -> bool:
        """Decide about one event; True when it is to be acknowledged, once what was decided is under way.

        One that cannot be acted on now comes again; one that never can is given up, and said.
        """
        try:
            with self.repository.view() as view:
                self._decide(delivery.event, view)
        except Deposed:
            raise
        except Unavailable as fault:
            self._note("disk", str(fault))
            delivery.nak(RECHECK * 5)
            return False
        except Exception as fault:  # noqa: BLE001 - one poisonous event must not hold up the others
            self.say(
                f"{stamp(self.now())[11:19]} event {delivery.event.type} {delivery.event.subject}: given up: {fault!r}"
            )
            delivery.term(repr(fault))
            return False
        return True

    def _decide(self, event: Event, view: Reading) -> None:
        if event.type == kinds.RUN_DEAD:
            self.outcome.died.append(event.subject)
        self._tell(event)
        if self.limits.follows:
            return
        for action in decide(event, view, self.now(), max_depth=self.limits.max_depth):
            match action:
                case Launch():
                    self._ready[action.task] = action
                case WakeAt():
                    self._wakes[action.task] = action.moment
                case _:
                    self._performer.perform(action, view)
                    if isinstance(action, Stop) and event.data.get("removed"):  # its end will not be on the main line
                        self._say(f"run {action.run}: stopped, {action.reason}; what it did stays on {ref(action.run)}")

    def _reconsider(self) -> None:
        """Look at every open task of an agent: what waited for room or a moment when ravi last ended waits again."""
        with self.repository.view() as view:
            for agent in view.agents():
                for task in view.assigned(agent.name):
                    self._decide(self._due(task.id), view)

    def _heed_branches(self) -> None:
        """Stop the runs whose own branch says by now that somebody asks for it."""
        for id in self._performer.running:
            tip = self.repository.refs.read(ref(id))
            if self._branches.get(id) != tip:
                self._branches[id] = tip
                run = self.repository.run_on_branch(id)
                if run is not None and run.stop:
                    self._performer.stop(id, f"stopped by {run.stop}")
        for id in self._branches.keys() - self._performer.running.keys():
            del self._branches[id]

    def _wake(self) -> None:
        """Look again at tasks whose moment has come."""
        now = self.now()
        for task in [task for task, moment in self._wakes.items() if moment <= now]:
            del self._wakes[task]
            with self.repository.view() as view:
                self._decide(self._due(task), view)

    def _launch(self) -> None:
        """Start what is ready, most urgent first, as far as there is room."""
        if not self._ready or self._stopping or self.limits.follows or not self._has_room():
            return
        room = self._room()
        elsewhere = self._performer.elsewhere
        for launch in sorted(self._ready.values(), key=lambda one: (-one.priority, one.task)):
            is_full = sum(not one.run.worker for one in self._performer.running.values()) >= self.limits.max_runs
            if is_full and elsewhere is None:
                return
            if room[launch.agent] <= 0:
                continue
            worker = elsewhere.offer(launch.agent) if is_full and elsewhere is not None else ""
            if is_full and not worker:
                continue
            room[launch.agent] -= 1
            if not self._start(launch, worker):
                return
            del self._ready[launch.task]

    def _room(self) -> Counter[str]:
        """How many more runs each agent may have at once. One that is gone has room: deciding again drops its task."""
        with self.repository.view() as view:
            agents = {name: view.agent(name) for name in {launch.agent for launch in self._ready.values()}}
        room = Counter({name: agent.concurrency if agent else 1 for name, agent in agents.items()})
        room.subtract(running.agent.name for running in self._performer.running.values())
        return room

    def _start(self, launch: Launch, worker: str) -> bool:
        """Start one run, if it still holds that it should; False when nothing can be started now."""
        try:
            with self.repository.view() as view:
                commit, depth = launch.cause.commit, launch.cause.depth - 1
                if not commit:
                    commit, depth = self.repository.cause_of(launch.task, view)
                event = Event(launch.cause.event, kinds.TIMER_DUE, launch.task, commit=commit, depth=depth)
                for action in decide(event, view, self.now(), max_depth=self.limits.max_depth):
                    if isinstance(action, WakeAt):
                        self._wakes[action.task] = action.moment
                        continue
                    self._performer.perform(action, view, worker)
                    if isinstance(action, Launch):
                        where = f" at worker {worker}" if worker else ""
                        self._say(f"run {action.run}: started by {action.agent}{where}")
        except Deposed:
            raise
        except Unavailable as fault:  # it stays ready
            self._note("disk", str(fault))
            return False
        except Exception as fault:  # noqa: BLE001 - one poisonous task must not hold up the others
            self._say(f"task {launch.task}: cannot be started: {fault!r}")
        return True

    def _has_room(self) -> bool:
        """True when the disk has room to work in; no attempt is spent on a disk that is full."""
        disk = os.statvfs(self.repository.root)
        has_room = disk.f_bavail * disk.f_frsize >= ROOM and (not disk.f_files or disk.f_favail >= FILES)
        self._note(
            "disk",
            ""
            if has_room
            else f"{disk.f_bavail * disk.f_frsize >> 10} KiB are free; runs start again when there is more",
        )
        return has_room

    # -- ends

    def _is_over(self, until_idle: bool, deadline: float | None) -> bool:  # noqa: FBT001 - private, named at the call
        if self._stopping:
            return True
        if deadline is not None and self.monotonic() >= deadline:
            self.outcome.timed_out = True
            return True
        return until_idle and self._is_idle()

    def _is_idle(self) -> bool:
        if self._performer.running or self._ready or self._wakes or not self._inbox.empty():
            return False
        if self._look_next != float("inf") or self.repository.tip() != self._tip:
            return False
        return self._publishing.is_done()

    def _drain(self) -> None:
        """Stop what runs here, record how it ended, write out what is recorded, say how far we came."""
        self._performer.leave()
        for run in list(self._performer.running):
            self._performer.stop(run, "ravi ended")
        patience = self.monotonic() + PATIENCE
        while self._performer.running and self.monotonic() < patience:  # what is not recorded then is recovered later
            self._wait(patience)
        self._publishing.close()
        self.bus.close()
        self.outcome.held = self._said.get("main line") or self._said.get("files") or ""

    # -- words

    def _tell(self, event: Event) -> None:
        if event.type in (kinds.RUN_COMPLETED, kinds.RUN_FAILED, kinds.RUN_DEAD, kinds.RUN_CANCELLED):
            reason = event.data.get("reason")
            self._say(f"run {event.subject}: {event.data.get('status')}" + (f", {reason}" if reason else ""))
        elif event.type == kinds.PROBLEM_FOUND:
            line = f":{event.data['line']}" if event.data.get("line") else ""
            key = f"{event.data['key']}: " if event.data.get("key") else ""
            self._say(f"{event.subject}{line}: {key}{event.data.get('message', '')}")

    def _say(self, text: str) -> None:
        self.say(f"{stamp(self.now())[11:19]} {text}")

    def _note(self, about: str, said: str) -> None:
        """Say a lasting state when it begins and when it ends, not every time it is seen."""
        if self._said.get(about, "") != said:
            self._said[about] = said
            self._say(f"{about}: {said or 'goes on'}")

    def _due(self, task: str) -> Event:
        return Event(derive_id("timer.due", task, stamp(self.now())), kinds.TIMER_DUE, task)


@dataclass(frozen=True, slots=True)
class _Look:
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Ended:
    run: str
    result: Result


@dataclass(frozen=True, slots=True)
class _Stop:
    reason: str


@dataclass(frozen=True, slots=True)
class _Published:
    fault: str


class _Publishing:
    """Writes out what is recorded, in a thread of its own: at 100k tasks that takes longer than anyone should wait."""

    def __init__(self, repository: Repository, report: Callable[[object], None]) -> None:
        self._repository = repository
        self._report = report
        self._asked = threading.Condition()
        self._wanted = 0
        self._reached = 0
        self._closing = False
        self._fault = ""
        self._thread = threading.Thread(target=self._work, name="ravi-publish", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """What is recorded by now shall be written out."""
        with self._asked:
            self._wanted += 1
            self._asked.notify_all()

    def is_done(self) -> bool:
        """True when everything asked for is written out, or cannot be for now, which has been said."""
        with self._asked:
            return self._reached == self._wanted or bool(self._fault)

    def close(self) -> None:
        """Write out what is left, and end."""
        with self._asked:
            self._closing = True
            self._wanted += 1
            self._asked.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._asked:
                again = RECHECK * 2 if self._fault else SCAN_EVERY
                self._asked.wait_for(
                    lambda: (self._wanted != self._reached and not self._fault) or self._closing, timeout=again
                )
                self._asked.wait_for(lambda: self._closing, timeout=GATHER)
                wanted, closing = self._wanted, self._closing
            try:
                published = self._repository.publish()
                fault = published.paused
                if published.absorbed:  # a person's commit or reset may have made edits of files that were right before
                    self._report(_Look(frozenset({""})))
            except RaviError as error:
                fault = str(error)
            with self._asked:
                self._fault = fault
                self._reached = self._reached if fault else wanted
            self._report(_Published(fault))
            if closing:
                return
