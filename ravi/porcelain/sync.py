"""`ravi sync`: what this clone recorded and what others pushed become one main line, here and at the remote.

Of all clones one leads, and runs agents; the others edit. Who leads is said by a ref of the remote, which changes hands
by compare-and-swap.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ravi.app import App
from ravi.core.ids import derive_id
from ravi.core.times import stamp
from ravi.core.trailers import Message
from ravi.errors import Conflict, RaviError, Refused, Unavailable
from ravi.store import join as joining
from ravi.store.git import call, run
from ravi.store.locks import Lock
from ravi.store.refs import MAIN, RUNS
from ravi.store.remote import ACTED_ON, LEADER, Lead, Moved, Remote, There, Update, clone_id, read_lead

_TRIES = 12  # how often a remote may move between our fetch and our push
_PATIENCE = 120.0  # seconds that another sync of this clone is waited for
_GLANCE = 5.0  # seconds that the first `ravi up` of a clone waits for a remote to say who leads
_SOON = 20.0  # seconds that a daemon waits for a remote when it starts and when it ends
_LONG = 300.0  # seconds for one fetch or push of a daemon; a person ends theirs with Ctrl-C


def sync(
    app: App, *, remote: str = "", lead: bool = False, timeout: float | None = None, take: bool = True
) -> dict[str, Any]:
    """Fetch, join, push, and write the outcome out; with `lead` this clone leads from now on.

    With `take`, what people saved is recorded first. A remote that is away raises Unavailable, and nothing has changed.
    """
    app.permit_operator("sync")
    return _Sync(app, remote or app.settings.remote, lead=lead, timeout=timeout, take=take).run()


class Clones:
    """What a daemon has to know of other clones: whether it may start runs. And it syncs now and then, if asked to."""

    def __init__(self, app: App, say: Callable[[str], None]) -> None:
        self._app = app
        self._say = say
        self._read: tuple[str | None, str] = (None, "")  # the leader's blob, and what it means to us
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._said = ""

    def follows(self) -> str:
        """Who else leads, in words; "" when this clone may start runs. One small file is read."""
        repository = self._app.repository
        oid = repository.refs.read(LEADER)
        if oid != self._read[0]:
            lead = read_lead(repository.objects, oid)
            is_other = lead is not None and lead.clone != clone_id(repository.beside)
            words = f"{lead} leads; runs are started there (`ravi sync --lead` takes over)" if is_other else ""
            self._read = (oid, words)
        return self._read[1]

    def look(self) -> None:
        """Before the first run: ask the remote who leads, where nobody here knows. One that is away is said."""
        repository, settings = self._app.repository, self._app.settings
        if settings.sync > 0:
            self._sync(_SOON)
            return
        if repository.refs.read(LEADER) is not None or os.path.exists(os.path.join(repository.beside, "clone")):
            return
        remote = Remote(repository.dirs, repository.refs, settings.remote)
        if not remote.url:
            return
        try:
            lead = remote.leader(repository.objects, timeout=_GLANCE)
        except Unavailable as fault:
            self._say(f"who leads is not known yet: {fault}")
            return
        clone_id(repository.beside)  # from now on this clone has asked
        if lead is not None:
            with contextlib.suppress(Conflict):
                repository.refs.create(LEADER, remote.seen(repository.branch).leader or "")

    def start(self) -> None:
        """Sync every `sync:` seconds, in a thread of its own, from now on."""
        self._thread = threading.Thread(target=self._work, name="ravi-sync", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; what was recorded by now is pushed, if the remote is there."""
        self._closing.set()
        if self._thread is None:
            return
        self._thread.join(_SOON)
        if self._app.settings.sync > 0 and not self._thread.is_alive():
            self._sync(_SOON)

    def _work(self) -> None:
        while not self._closing.wait(self._app.settings.sync or _GLANCE):  # the settings may change meanwhile
            if self._app.settings.sync > 0:
                self._sync(_LONG)

    def _sync(self, timeout: float) -> None:
        try:
            told = sync(self._app, timeout=timeout, take=False)
        except RaviError as fault:
            said = str(fault)
        except OSError as fault:
            said = f"{fault.filename or 'the system'}: {fault.strerror}"
        else:
            said = ""
            for line in told["said"]:
                self._say(f"sync: {line}")
        if said != self._said:  # a lasting state is said when it begins and when it ends
            self._said = said
            self._say(f"sync: {said or 'goes on'}")


@dataclass(slots=True)
class _Met:
    """What came of the joining."""

    conflicts: list[tuple[str, str]] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    review: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    received: int = 0
    sent: int = 0
    deposed_by: Lead | None = None
    took_over: Lead | None = None

    def add(self, met: joining.Joined) -> None:
        self.conflicts += [one for one in met.conflicts if one not in self.conflicts]
        self.withheld += [one for one in met.withheld if one not in self.withheld]
        self.review += [one for one in met.review if one not in self.review]
        self.renamed += [one for one in met.renamed if one not in self.renamed]


class _Sync:
    """One call of `sync`."""

    def __init__(self, app: App, remote: str, *, lead: bool, timeout: float | None, take: bool) -> None:
        self.app = app
        self.repository = app.repository
        self.branch = self.repository.branch
        self.remote = Remote(self.repository.dirs, self.repository.refs, remote)
        self.wants_lead = lead
        self.timeout = timeout
        self.takes = take and app.settings.ingest == "auto"
        self.met = _Met()
        self.me = ""
        self.lead: Lead | None = None

    def run(self) -> dict[str, Any]:
        self.remote.check()
        with Lock(os.path.join(self.repository.beside, "sync.lock")).held(_PATIENCE):
            self.repository.refs.sweep()  # git would wait for ever for a lock that a killed fetch left
            there = self.remote.fetch(self.branch, timeout=self.timeout)
            self.me = clone_id(self.repository.beside)
            if self.takes:
                self.repository.settle(None, 0.0, 0.0)
            try:
                self._meet_until_done(there)
            finally:
                paused = self.repository.publish().paused  # also what was joined before a remote went away
        if self.takes and self.met.received:  # a daemon sees to them itself
            with self.app.view() as view:
                self.repository.link_open(view)
        if paused:
            self.app.notices.append(f"recorded, but not written out yet: {paused}")
        return self._told(paused)

    def _meet_until_done(self, there: There) -> None:
        for again in range(_TRIES):
            try:
                self._meet(there)
            except Moved:
                time.sleep(int.from_bytes(os.urandom(1)) / 255 * min(0.05 * 2**again, 1.0))  # nobody tells who is next
                there = self.remote.fetch(self.branch, timeout=self.timeout)
            except Conflict:  # something was recorded here meanwhile
                there = self.remote.seen(self.branch)
            else:
                return
        raise Conflict(f"remote {self.remote.name}: it keeps moving", hint="try again in a moment")

    def _meet(self, there: There) -> None:
        """Join what is there, and push what is not. Raises Moved, or Conflict when something was recorded meanwhile."""
        repository = self.repository
        repository.adopt()
        tip = repository.tip()
        if tip is None:
            raise Refused(f"{repository.root}: nothing is recorded here yet", hint="look with `ravi status`")
        theirs = read_lead(repository.objects, there.leader)
        known = read_lead(repository.objects, repository.refs.read(LEADER))
        led_by = theirs or known
        is_ours = led_by is None or led_by.clone == self.me
        for oid in dict.fromkeys(one for one in (there.main, there.branch) if one is not None):
            tip = self._joined(tip, oid, is_ours=is_ours)
        self._heed(theirs, known, there)
        self.lead = self._next_lead(theirs, known)
        is_new = theirs is not None and self.lead != theirs
        goal = self._led_from(tip, self.lead) if is_new else tip
        if not is_new and theirs is not None and theirs.clone == self.me and theirs != known:
            self._take_up(there, tip)  # we were killed when we had just taken over
        updates = self._updates(there, goal)
        if any(one.new != one.old for one in updates):
            sent = self._count(goal, [one for one in (there.main, there.branch) if one])
            repository.objects.flush()
            self.remote.push(updates, timeout=self.timeout)
            self.met.sent += sent
        if is_new:
            self.met.took_over = self.lead
            self._take_up(there, tip)
        self._point(LEADER, self._blob(self.lead))
        repository.objects.release()
        if goal != tip:
            joining.forward(repository, goal, tip)

    # -- who leads

    def _heed(self, theirs: Lead | None, known: Lead | None, there: There) -> None:
        """Know at once, whatever comes of the rest, that another clone leads."""
        if theirs is None or theirs.clone == self.me or theirs == known:
            return
        if known is not None and known.clone == self.me:
            self.met.deposed_by = theirs
        self._point(LEADER, there.leader)

    def _next_lead(self, theirs: Lead | None, known: Lead | None) -> Lead:
        """Who leads when this sync is over: who did, or the first that comes, or we where that is asked for."""
        led_by = theirs or known
        if led_by is not None and (led_by.clone == self.me or not self.wants_lead):
            return led_by
        epoch = max(one.epoch if one else 0 for one in (theirs, known)) + 1
        return Lead(self.me, os.uname().nodename, epoch, stamp(self.app.now()))

    def _led_from(self, tip: str, lead: Lead) -> str:
        """A commit that says who leads from now on. It also makes every push fail that was made for the former one."""
        from ravi.store.objects import Signature

        objects = self.repository.objects
        who = Signature(*self.repository.person, int(self.app.now().timestamp()))
        event = derive_id("lead", lead.clone, str(lead.epoch), tip)
        words = f"workspace: clone {lead.clone} on {lead.host} leads, epoch {lead.epoch}"
        text = Message(words, "", {"Ravi-Event": event}).render()
        ravi = Signature("ravi", "ravi@agents.invalid", who.when)
        return objects.put_commit(objects.commit(tip).tree, (tip,), who, ravi, text)

    def _take_up(self, there: There, tip: str) -> None:
        """Go on where the former leader came to: what it acted on, and its runs, which end here as interrupted."""
        repository = self.repository
        self._point(ACTED_ON, there.acted_on if self._is_in(there.acted_on, tip) else tip)
        made: dict[str, str] = {}
        for id, oid in there.runs.items():
            if repository.refs.read(RUNS + id) is None:
                with contextlib.suppress(Conflict):
                    repository.refs.create(RUNS + id, oid)
                    made[id] = oid
        for id in made.keys() - repository.unmerged().keys():  # it came back meanwhile
            with contextlib.suppress(Conflict):
                repository.refs.delete(RUNS + id, made[id])

    def _blob(self, lead: Lead) -> str:
        known = self.repository.refs.read(LEADER)
        if known is not None and read_lead(self.repository.objects, known) == lead:
            return known
        oid = self.repository.objects.put_blob(lead.render())
        self.repository.objects.flush()
        return oid

    # -- one main line

    def _joined(self, tip: str, other: str, *, is_ours: bool) -> str:
        """The main line with another commit in it; the first parent is the line of who leads."""
        repository = self.repository
        if self._is_in(other, tip):
            return tip
        self.met.received += self._count(other, [tip])
        objects = repository.objects
        tree, body = objects.commit(other).tree, ""
        if self._is_in(tip, other):
            if not is_ours or self._goes_on(tip, other):
                joining.forward(repository, other, tip)
                return other
        else:
            sides = (tip, other) if is_ours else (other, tip)
            with objects.batch():
                met = joining.join(objects, repository.dirs.common_dir, *sides)
            self.met.add(met)
            tree, body = met.tree, "\n".join(_lines(met))
        parents = (tip, other) if is_ours else (other, tip)
        subject = f"workspace: clone {self.me} joined what {self.remote.name} has"
        message = Message(subject, body, {"Ravi-Event": derive_id("join", *parents)})
        return joining.record(repository, tree, parents, message, tip)

    def _updates(self, there: There, goal: str) -> list[Update]:
        """What the remote lacks. Who leads pushes the leader's ref too: all of it fails when that has changed."""
        repository = self.repository
        updates = [Update(MAIN, goal, there.main), Update(self.branch, goal, there.branch)]
        assert self.lead is not None
        if self.lead.clone != self.me:
            known = repository.refs.read(LEADER)
            return [*updates, Update(LEADER, known, None)] if there.leader is None and known else updates
        oid = self._blob(self.lead)
        updates.append(Update(LEADER, oid, there.leader))
        if there.leader not in (None, oid):
            return updates  # the former leader's runs become ours first
        acted_on = repository.refs.read(ACTED_ON)
        if acted_on is not None and acted_on != there.acted_on:
            updates.append(Update(ACTED_ON, acted_on, there.acted_on))
        known_runs = repository.unmerged()
        live = {id: tip for id in known_runs if (tip := repository.refs.read(RUNS + id)) is not None}
        for id, tip in live.items():
            was = there.runs.get(id)
            if was is not None and known_runs[id].worker:
                continue  # from there on it is its worker's, until it is given up
            if was != tip and not self._is_in(tip, was):  # a worker may have gone on with it
                updates.append(Update(RUNS + id, tip, was))
        updates += [Update(RUNS + id, None, was) for id, was in there.runs.items() if id not in live]
        return updates

    # -- steps

    def _point(self, ref: str, oid: str | None) -> None:
        """Have a ref of this clone say so, whatever it said."""
        old = self.repository.refs.read(ref)
        if oid is not None and oid != old:
            with contextlib.suppress(Conflict):  # a daemon moved it just now
                self.repository.refs.swap(ref, oid, old)

    def _is_in(self, old: str | None, new: str | None) -> bool:
        if old is None or new is None:
            return False
        return old == new or call(["merge-base", "--is-ancestor", old, new], self.repository.root).code == 0

    def _goes_on(self, old: str, new: str) -> bool:
        """True when `new` was made on top of `old`, so that whoever reads the line from there misses nothing."""
        line = run(["rev-list", "--first-parent", new, f"^{old}"], self.repository.root).decode().split()
        parents = self.repository.objects.commit(line[-1]).parents if line else ()
        return bool(parents) and parents[0] == old

    def _count(self, tip: str, without: list[str]) -> int:
        words = ["rev-list", "--count", tip, *(f"^{oid}" for oid in without)]
        self.repository.objects.flush()
        return int(run(words, self.repository.root))

    def _told(self, paused: str) -> dict[str, Any]:
        met, lead = self.met, self.lead
        assert lead is not None
        said = _lines(
            joining.Joined("", tuple(met.conflicts), tuple(met.withheld), tuple(met.review), tuple(met.renamed))
        )
        if met.deposed_by is not None and met.took_over is None:
            said.insert(0, f"{met.deposed_by} has taken over; no runs are started here any more")
        return {
            "remote": self.remote.name,
            "branch": self.branch.removeprefix("refs/heads/"),
            "commit": self.repository.tip() or "",
            "received": met.received,
            "sent": met.sent,
            "clone": self.me,
            "leader": {**lead._asdict(), "here": lead.clone == self.me},
            "took_over": met.took_over is not None,
            "deposed": met.deposed_by is not None and met.took_over is None,
            "conflicts": [{"path": path, "where": where} for path, where in met.conflicts],
            "withheld": met.withheld,
            "review": met.review,
            "renamed": [{"was": was, "id": id} for was, id in met.renamed],
            "said": said,
            "paused": paused,
        }


def _lines(met: joining.Joined) -> list[str]:
    """What a person should know of a joining, a line for each."""
    return [
        *(f"{path}: {where}: changed on both sides; what the leader has is taken" if where not in _WORDS else
          f"{path}: {where}" for path, where in met.conflicts),
        *(f"run {run} is not taken: its task was worked on by the leader too" for run in met.withheld),
        *(f"task {task} is in review" for task in met.review),
        *(f"task {was} was made twice; the other one is {id} now, a draft" for was, id in met.renamed),
    ]  # fmt: skip


_WORDS = frozenset({joining.STAYS})
