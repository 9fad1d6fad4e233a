"""The crew: the workers of this workspace, as its leader sees them. It gives them runs, and waits for what they make.

Git is the truth: a run that a worker has is a branch at the remote, and so is its end. NATS says that there is
something to look at, and whether a worker lives.
"""

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ravi.app import App, clock
from ravi.bus.nats import Bucket, Link, Message, StreamSpec, Subscription
from ravi.core import run as runs
from ravi.core import trailers
from ravi.core.ids import derive_id
from ravi.core.run import Run
from ravi.core.subjects import Names, named
from ravi.errors import Conflict, Malformed, NotFound, RaviError, Unavailable
from ravi.porcelain.nats import linked
from ravi.porcelain.sync import sync
from ravi.runners.base import COMPLETED, FAILED, INTERRUPTED, Order, Result, RunnerEvent, Status, Stop
from ravi.store.objects import Signature
from ravi.store.remote import LEADER, Moved, Remote, Update, clone_id, read_lead
from ravi.store.repository import Repository
from ravi.store.writer import Draft, Tip

BEAT = 2.0  # seconds between two signs of life of a worker
LOST = 15.0  # seconds without one until what it had is given to others
_LOOK = 10.0  # seconds between looks at the remote while something is out there, should nobody tell us
_LONG = 60.0  # seconds for one fetch or push
_SOON = 20.0  # seconds that our end waits for one
_STATUSES: dict[str, Status] = {COMPLETED: COMPLETED, FAILED: FAILED}


def listing(app: App) -> list[dict[str, Any]]:
    """The workers that live, by name: host, slots, busy, draining, seen and the runs that they have."""
    app.permit_operator("workers list")
    with linked(app, 5.0) as link:
        names = named(app.settings.name)
        found = _read(link.bucket(names.bucket("workers"), ttl=LOST))
        keys = ("name", "host", "slots", "busy", "draining", "seen", "runs")
        return [{key: said.get(key) for key in keys} for _, (_, said) in sorted(found.items())]


def drain(app: App, name: str) -> dict[str, Any]:
    """Have a worker take no more runs, finish those that it has, and end. Raises NotFound."""
    app.permit_operator("workers drain")
    with linked(app, 5.0) as link:
        try:
            link.request(named(app.settings.name).worker(name), json.dumps({"verb": "drain"}).encode(), timeout=5.0)
        except Unavailable:
            raise NotFound(f"no worker `{name}` lives", hint="`ravi workers list` names them") from None
    return {"name": name, "draining": True}


@dataclass(slots=True)
class _Away:
    """A run that a worker has, or is to get."""

    run: Run
    claim: str
    ordered: bool
    listed: float  # when a sign of life of its worker named it last
    stir: Callable[[], None]
    asked: str = ""
    result: Result | None = None
    is_over: threading.Event = field(default_factory=threading.Event)

    def stop(self, reason: str) -> None:
        self.asked = self.asked or reason
        self.stir()

    def end(self, result: Result) -> None:
        self.result = result
        self.is_over.set()


class _Turn:
    """The runner of one run that is away."""

    def __init__(self, away: _Away) -> None:
        self._away = away

    def run(self, order: Order, emit: Callable[[RunnerEvent], None], on_stop: Callable[[Stop], None]) -> Result:
        """Wait for the worker's end."""
        on_stop(self._away.stop)
        self._away.is_over.wait()
        assert self._away.result is not None
        return self._away.result


class Crew:
    """Who works for this workspace, and what they have under way. `offer` and `carry` are the loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away: dict[str, _Away] = {}
        self._workers: dict[str, dict[str, Any]] = {}  # those that live, by name
        self._seen: dict[str, tuple[int, float]] = {}  # name -> its entry's revision, and when that was new
        self._stirred = threading.Event()
        self._closing = threading.Event()
        self._news = threading.Event()
        self._is_ready = False  # the remote has what we have, so that workers can start from there
        self._looked = 0.0
        self._said: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, name="ravi-crew", daemon=True)
        self._app: App | None = None
        self._listening: list[Subscription] = []

    def start(self, app: App, link: Link, names: Names, say: Callable[[str], None]) -> None:
        """Begin, in a thread of our own. Nothing is offered before."""
        self._app, self._link, self._names, self._say = app, link, names, say
        self._remote = Remote(app.repository.dirs, app.repository.refs, app.settings.remote)
        self._thread.start()

    def close(self) -> None:
        """End. What is away stays with its workers."""
        self._closing.set()
        self._stirred.set()
        if self._thread.ident is not None:
            self._thread.join(_SOON)
        for one in self._listening:
            one.close()
        for away in self._away.values():
            away.end(Result(INTERRUPTED, reason="ravi ended"))

    def offer(self, agent: str) -> str:
        """The name of a worker with room, the one with the most of it first; "" when there is none."""
        if not self._is_ready:
            return ""
        with self._lock:
            has: dict[str, int] = {}
            for away in self._away.values():
                has[away.run.worker] = has.get(away.run.worker, 0) + 1
            room = {
                name: int(said.get("slots", 0)) - has.get(name, 0)
                for name, said in self._workers.items()
                if not said.get("draining")
            }
        best = max(sorted(room), key=lambda name: room[name], default="")
        return best if best and room[best] > 0 else ""

    def carry(self, run: Run, *, is_new: bool) -> _Turn:
        """Have `run.worker` carry out a run that was just claimed, or wait for one that it has."""
        away = _Away(run, "", not is_new, clock(), self._stirred.set)
        with self._lock:
            self._away[run.id] = away
        self._stirred.set()
        return _Turn(away)

    # -- the thread

    def _work(self) -> None:
        assert self._app is not None
        while not self._closing.is_set():
            try:
                self._turn(clock())
            except (RaviError, OSError) as fault:
                self._note("crew", str(fault))
            self._stirred.wait(BEAT)
            self._stirred.clear()

    def _turn(self, now: float) -> None:
        if not self._leads():
            self._is_ready = False
            return
        with self._lock:
            away = list(self._away.values())
        self._heed_stops(away)
        fresh = [one for one in away if not one.ordered]
        pause = _LOOK if self._is_ready or self._said.get("workers") else 0.0  # the first one waits for nothing
        if fresh or self._news.is_set() or ((away or self._workers) and now - self._looked >= pause):
            self._news.clear()
            self._looked = now
            self._sync()
            if self._is_ready:
                for one in fresh:
                    self._order(one)
        # Only now: a worker says that it takes no more before it hands back what it has.
        try:
            self._look_at_workers(away, now)
        except RaviError as fault:  # what came back is seen in git all the same
            self._note("NATS", str(fault))
            self._pardon(away, now)
        if self._workers and not self._is_ready and not self._said.get("workers"):
            self._stirred.set()  # the first one: have the remote ready for it
        for one in away:
            try:
                self._settle(one, now)
            except Unavailable as fault:
                self._note(f"run {one.run.id}", str(fault))
            else:
                self._note(f"run {one.run.id}", "")

    def _leads(self) -> bool:
        """True when this clone may give runs away: it leads, or nobody does yet and there is a remote to share."""
        assert self._app is not None
        repository = self._app.repository
        lead = read_lead(repository.objects, repository.refs.read(LEADER))
        return lead is None or lead.clone == clone_id(repository.beside)

    def _look_at_workers(self, away: list[_Away], now: float) -> None:
        """Who lives, and what they say they have."""
        if not self._link.connected:
            self._pardon(away, now)
            return
        self._note("NATS", "")
        if not self._listening:
            self._link.ensure(StreamSpec(self._names.stream("RUN"), (self._names.orders(">"),), "workqueue"))
            self._bucket: Bucket = self._link.bucket(self._names.bucket("workers"), ttl=LOST)
            self._listening = [self._link.subscribe(self._names.worker("news"), self._heard)]
        found = _read(self._bucket)
        for name, (revision, _) in found.items():
            if self._seen.get(name, (0, 0.0))[0] != revision:
                self._seen[name] = (revision, now)
        alive = {name: said for name, (_, said) in found.items() if now - self._seen[name][1] < LOST}
        for name in alive.keys() - self._workers.keys():
            self._say(f"worker {name} on {alive[name].get('host')} is there, {alive[name].get('slots')} slots")
        for name in self._workers.keys() - alive.keys():
            self._say(f"worker {name} is gone")
        for name, said in alive.items():
            if said.get("draining") and not self._workers.get(name, {}).get("draining"):
                self._say(f"worker {name} takes no more runs")
        with self._lock:
            self._workers = alive
        by_id = {one.run.id: one for one in away}
        for name, said in alive.items():
            listed = said.get("runs") or ()
            for id in listed:
                known = by_id.get(id)
                if known is not None and known.run.worker == name:
                    known.listed = max(known.listed, self._seen[name][1])
                    known.ordered = True
                elif not self._has(name, id):
                    self._tell(name, {"verb": "stop", "run": id, "reason": "it was given up by who leads"})
            if any(one.ordered and one.run.worker == name and one.run.id not in listed for one in away):
                self._looked = min(self._looked, now - _LOOK + BEAT)  # soon: it may have come to its end

    def _pardon(self, away: list[_Away], now: float) -> None:
        """Nobody can tell us that they live: this is not held against them."""
        for one in away:
            one.listed = now

    def _has(self, name: str, id: str) -> bool:
        """Whether a run is that worker's, by what is recorded."""
        assert self._app is not None
        run = self._app.repository.run_on_branch(id)
        return run is not None and run.is_live and run.worker == name

    def _heed_stops(self, away: list[_Away]) -> None:
        """Say to workers which runs shall end; again and again, until they have."""
        for one in away:
            if one.asked and one.ordered:
                self._tell(one.run.worker, {"verb": "stop", "run": one.run.id, "reason": one.asked})
            elif one.asked:
                self._over(one, Result(INTERRUPTED, reason=one.asked))

    def _order(self, one: _Away) -> None:
        """The branch is there by now: tell its worker."""
        said = self._workers.get(one.run.worker)
        claim = self._claim(one)
        if one.is_over.is_set() or said is None or not claim:
            return
        told = {"run": one.run.id, "commit": claim, "agent": one.run.agent, "instance": said.get("instance")}
        subject = self._names.order(one.run.agent, one.run.worker)
        self._link.publish(subject, json.dumps(told).encode(), id=f"{one.run.id}@{claim}")
        one.ordered, one.listed = True, clock()

    def _settle(self, one: _Away, now: float) -> None:
        """Take what came back of a run; or give it up, when its worker shows no sign of life."""
        assert self._app is not None
        if one.is_over.is_set():
            return
        repository, ref = self._app.repository, one.run.branch
        run, local, claim = repository.run_on_branch(one.run.id), repository.refs.read(ref), self._claim(one)
        if run is None or not run.is_live or local is None:
            self._over(one, Result(INTERRUPTED, reason="its branch is not there any more"))
            return
        there = self._remote.seen(repository.branch).runs.get(run.id)
        if there not in (None, claim, local) and (theirs := self._read_end(run, str(there))) is not None:
            run = self._brought(run, theirs, str(there), local)
        elif not run.returned and now - one.listed >= LOST:
            run = self._given_up(run)
        if not run.returned:
            return
        if there == claim:  # we gave it up: from now on a late push of its worker fails
            tip = repository.refs.read(ref)
            repository.objects.flush()
            try:
                self._remote.push([Update(ref, tip, claim)], timeout=_LONG)
            except Moved:
                self._news.set()
                self._stirred.set()
                return
        status = _STATUSES.get(run.returned, INTERRUPTED)
        self._over(one, Result(status, run.exit, run.reason, run.text, run.usage))

    def _read_end(self, run: Run, tip: str) -> Run | None:
        """What a worker says of a run's end at the tip of its branch; None when it does not."""
        assert self._app is not None
        objects = self._app.repository.objects
        with contextlib.suppress(NotFound, Malformed):
            data = objects.read(objects.commit(tip).tree, run.path)
            if data is not None:
                said = runs.parse(run.path, data)
                return said if said.returned and said.is_live else None
        return None

    def _brought(self, run: Run, theirs: Run, tip: str, local: str) -> Run:
        """Have the run's branch here hold what its worker made; who asked it to stop meanwhile stays in it."""
        assert self._app is not None
        repository = self._app.repository
        whole = _with_stop(theirs, run.stop)
        if whole == theirs and local == _claim_of(repository, run.id, local):
            with contextlib.suppress(Conflict):
                repository.refs.swap(run.branch, tip, local)
                return theirs
        objects = repository.objects

        def propose(_: Tip) -> Draft:
            message = trailers.Message(
                f"run {run.id}: came back from worker {run.worker}",
                "",
                {"Ravi-Event": derive_id("run.back", run.id), "Ravi-Task": run.task, "Ravi-Run": run.id},
            )
            tree = objects.commit(tip).tree
            return Draft(message, {run.path: runs.render(whole)}, self._ravi(), parents=(tip,), tree=tree)

        repository.writer.record(propose, ref=run.branch)
        return whole

    def _given_up(self, run: Run) -> Run:
        """Record on a run's branch that its worker is lost."""
        assert self._app is not None
        reason = f"worker {run.worker} gave no sign of life for {LOST:g}s"
        self._say(f"run {run.id}: {reason}")
        lost = replace(run, returned=INTERRUPTED, reason=reason)
        message = trailers.Message(
            f"run {run.id}: given up, {reason}",
            "",
            {"Ravi-Event": derive_id("run.lost", run.id), "Ravi-Task": run.task, "Ravi-Run": run.id},
        )
        draft = Draft(message, {run.path: runs.render(lost)}, self._ravi())
        self._app.repository.writer.record(lambda _: draft, ref=run.branch)
        return lost

    # -- small steps

    def _sync(self) -> None:
        """Bring the main line, and the claims of new runs, to the remote; and what is there, here."""
        assert self._app is not None
        try:
            sync(self._app, timeout=_LONG, take=False)
        except (RaviError, OSError) as fault:
            self._is_ready = False
            self._note("workers", f"they have to wait: {fault}")
        else:
            self._is_ready = self._leads()
            self._note("workers", "")

    def _claim(self, one: _Away) -> str:
        """The commit that claimed a run: where its branch at the remote stands until its worker is done."""
        assert self._app is not None
        if not one.claim:
            one.claim = _claim_of(self._app.repository, one.run.id, self._app.repository.refs.read(one.run.branch))
        return one.claim

    def _over(self, one: _Away, result: Result) -> None:
        with self._lock:
            self._away.pop(one.run.id, None)
        one.end(result)

    def _heard(self, _: Message) -> None:
        self._news.set()
        self._stirred.set()

    def _tell(self, name: str, said: dict[str, Any]) -> None:
        with contextlib.suppress(RaviError):  # it is told again
            self._link.send(self._names.worker(name), json.dumps(said).encode())

    def _ravi(self) -> Signature:
        assert self._app is not None
        return Signature("ravi", "ravi@agents.invalid", int(self._app.now().timestamp()))

    def _note(self, about: str, said: str) -> None:
        """Say a lasting state when it begins and when it ends."""
        if self._said.get(about, "") != said:
            self._said[about] = said
            self._say(f"{about}: {said or 'go on'}")


def _claim_of(repository: Repository, id: str, tip: str | None) -> str:
    """The commit that claimed a run, from a tip of its branch."""
    return (repository.claim_of(id, tip) if tip is not None else None) or ""


def _with_stop(run: Run, stop: str) -> Run:
    return replace(run, stop=stop) if stop else run


def _read(bucket: Bucket) -> dict[str, tuple[int, dict[str, Any]]]:
    """What workers say of themselves, with the revision of it."""
    found = {}
    for key in bucket.keys():  # noqa: SIM118 - a bucket is no mapping
        held = bucket.get(key)
        if held is not None:
            with contextlib.suppress(ValueError):
                said = json.loads(held.value)
                if isinstance(said, dict):
                    found[key] = (held.revision, said)
    return found
