"""The one writer: everything ravi changes in a workspace goes through here, one commit for each change.

What many threads want to record at once becomes one group: each its own commit, all made durable together.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from ravi.core.trailers import Message
from ravi.errors import Conflict, Deposed, NotFound, Unavailable
from ravi.store.locks import Lock
from ravi.store.objects import Batch, Change, Objects, Signature
from ravi.store.packs import FOLD_ABOVE
from ravi.store.refs import EPOCH, MAIN, Refs

__all__ = ["MAIN", "Draft", "Propose", "Tip", "Writer"]

_GROUP = 256  # commits made durable together, at most
_TRIES = 5  # how often a group is made anew because somebody who does not take our lock moved its ref


class Draft(NamedTuple):
    """What a commit shall say and change. `changes` are as in `Objects.apply`, on top of the tip's tree.

    `parents` come after the tip (a merge). `tree`, when given, is taken instead of the tip's tree, before `changes`.
    A draft that changes nothing and merges nothing is no commit, unless `empty_ok`.
    """

    message: Message
    changes: Mapping[str, Change]
    author: Signature
    parents: tuple[str, ...] = ()
    tree: str | None = None
    empty_ok: bool = False


class Tip(NamedTuple):
    """Where a ref stands while a draft is made for it; `commit` is None before the first one."""

    commit: str | None
    tree: str | None
    objects: Objects

    def read(self, path: str) -> bytes | None:
        """The bytes of the file at `path`, None if there is none."""
        return None if self.tree is None else self.objects.read(self.tree, path)


Propose = Callable[[Tip], Draft | None]


class _Request:
    """One call of `record`, on its way. `woken` is a lock that its thread waits at; the request is made holding it."""

    def __init__(self, propose: Propose, ref: str, base: str | None) -> None:
        self.propose = propose
        self.ref = ref
        self.base = base
        self.woken = threading.Lock()
        self.woken.acquire()
        self.leads = False
        self.batch: Batch | None = None
        self.is_done = False
        self.result: str | None = None
        self.fault: BaseException | None = None

    def end(self, result: str | None = None, fault: BaseException | None = None) -> None:
        self.result, self.fault, self.is_done = result, fault, True


class Writer:
    """Records drafts as commits on refs, durably and in one line. Thread-safe; other processes are kept off by a lock.

    With `epoch` (the oid that `refs/ravi/epoch` must still name) it refuses once somebody else took over.
    """

    def __init__(
        self,
        objects: Objects,
        refs: Refs,
        common_dir: str,
        clock: Callable[[], datetime],
        epoch: str | None = None,
    ) -> None:
        self.objects = objects
        self.refs = refs
        self.common_dir = common_dir
        self.clock = clock
        self.epoch = epoch
        self._term = {} if epoch is None else {"Ravi-Epoch": str(_term(objects.blob(epoch)))}
        self._lock = Lock(os.path.join(common_dir, "ravi", "writer.lock"))
        self._queue: list[_Request] = []
        self._is_led = False
        self._leader = 0
        self._door = threading.Lock()
        self._folding: threading.Thread | None = None

    def record(self, propose: Propose, *, ref: str = MAIN, base: str | None = None) -> str | None:
        """Commit what `propose` drafts for the tip of `ref`, and answer the commit once it is durable.

        None when it drafts nothing, or nothing new. With `base` the ref must not exist (Conflict); it begins there.
        `propose` runs under the writer's lock, perhaps in another thread and more than once: it reads the tip, and
        leaves the world alone. What it raises is raised here, and harms no other.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("a proposer must not record: it would wait for itself")
        request = _Request(propose, ref, base)
        with self._door:
            self._queue.append(request)
            request.leads = not self._is_led
            self._is_led = True
        if not request.leads:
            self._wait(request)
        if not request.is_done:
            self._lead()
        self.objects.release()
        if request.fault is not None:
            raise request.fault
        return request.result

    def take_over(self, holder: str) -> "Writer":
        """Begin a new epoch, and answer its writer. Every writer of an older one is deposed from now on."""
        import json

        with self._lock.held():
            old = self.refs.read(EPOCH)
            term = 1 if old is None else _term(self.objects.blob(old)) + 1
            text = json.dumps({"epoch": term, "holder": holder}, ensure_ascii=False) + "\n"
            new = self.objects.put_blob(text.encode("utf-8", "replace"))
            self.objects.flush()
            self.refs.swap(EPOCH, new, old)
            self.objects.release()
        return Writer(self.objects, self.refs, self.common_dir, self.clock, new)

    def check_epoch(self) -> None:
        """Raise Deposed when somebody else leads this workspace by now."""
        if self.epoch is None:
            return
        now = self.refs.read(EPOCH)
        if now != self.epoch:
            who = "" if now is None else f" by {_holder(self.objects.blob(now))}"
            raise Deposed(f"this workspace was taken over{who}", hint="what is recorded stays; this process must end")

    def close(self) -> None:
        """Wait for what goes on behind (the folding of packs)."""
        if self._folding is not None:
            self._folding.join()

    # -- one thread leads: it works for all who wait, then hands on

    def _wait(self, request: _Request) -> None:
        """Until it is done, or it is our turn to lead."""
        try:
            request.woken.acquire()
        except BaseException:  # interrupted: nobody must wait for this thread to lead
            with self._door:
                if request in self._queue:
                    self._queue.remove(request)
                    if request.leads:
                        self._hand_on()
            raise

    def _hand_on(self) -> None:
        """With the door closed: the next in the queue leads."""
        self._is_led = bool(self._queue)
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].woken.release()

    def _lead(self) -> None:
        with self._door:
            group, self._queue = self._queue[:_GROUP], self._queue[_GROUP:]
        mine, self._leader = group[0], threading.get_ident()
        try:
            self._record(group)
        except Exception as fault:  # noqa: BLE001 - it is raised in the thread of each request
            for request in group:
                if not request.is_done:
                    request.end(fault=fault)
        except BaseException:
            for request in group:
                if not request.is_done:
                    request.end(fault=Unavailable("the writer was interrupted; ask again"))
            raise
        finally:
            self._leader = 0
            for request in group:
                if request is not mine:
                    request.woken.release()
            with self._door:
                self._hand_on()
        self._tidy()

    def _record(self, group: list[_Request]) -> None:
        with self._lock.held():
            self.check_epoch()
            for _ in range(_TRIES):
                group = [request for request in group if not request.is_done]
                if not group:
                    return
                self._commit(group)
            for request in group:
                if not request.is_done:
                    request.end(fault=Conflict(f"{request.ref}: it keeps moving; something else writes to it"))

    def _commit(self, group: list[_Request]) -> None:
        """One durable group: draft in order, each on top of the one before, write all, then move each ref once."""
        before: dict[str, str | None] = {}
        after: dict[str, str | None] = {}
        made: list[tuple[_Request, str]] = []
        try:
            for request in group:
                ref = request.ref
                try:
                    if ref not in after:
                        before[ref] = after[ref] = self.refs.read(ref)
                    with self.objects.batch() as request.batch:
                        oid = self._drafted(request, after[ref])
                except Exception as fault:  # noqa: BLE001 - it is the proposer's own, and is raised in its thread
                    request.end(fault=fault)
                    continue
                if oid is None:
                    self.objects.drop(request.batch)
                    request.end()
                    continue
                after[ref] = oid
                made.append((request, oid))
            if not made:
                return
            self.objects.flush()
        except BaseException:
            for request in group:
                if request.batch is not None:
                    self.objects.drop(request.batch)
            raise
        for ref, new in after.items():
            if new is None or new == before[ref]:
                continue
            mine = [(request, oid) for request, oid in made if request.ref == ref]
            try:
                self.refs.swap(ref, new, before[ref])
            except Conflict as fault:
                if self.refs.read(ref) == before[ref]:  # it did not move: the name itself is in conflict
                    for request, _ in mine:
                        request.end(fault=fault)
                continue  # moved by somebody without our lock (a fetch): these are drafted again
            except Exception as fault:  # noqa: BLE001 - other refs of the group may well be written
                for request, _ in mine:
                    request.end(fault=fault)
                continue
            for request, oid in mine:
                request.end(oid)
        self.objects.release()

    def _drafted(self, request: _Request, tip: str | None) -> str | None:
        objects = self.objects
        if request.base is not None:
            if tip is not None:
                raise Conflict(f"{request.ref}: it exists already, at {tip}")
            tip = request.base
        tree = None if tip is None else objects.commit(tip).tree
        draft = request.propose(Tip(tip, tree, objects))
        if draft is None:
            return None
        if draft.tree is not None and objects.kind(draft.tree) != "tree":
            raise NotFound(f"{request.ref}: the draft's tree {draft.tree} is missing")
        for parent in draft.parents:
            if objects.kind(parent) != "commit":
                raise NotFound(f"{request.ref}: the draft's parent {parent} is missing")
        start = draft.tree if draft.tree is not None else tree
        changed = objects.apply(start, draft.changes) if draft.changes or start is None else start
        parents = tuple(dict.fromkeys(p for p in (tip, *draft.parents) if p is not None))
        if changed == tree and len(parents) < 2 and not draft.empty_ok:
            return None
        now = self.clock()
        offset = now.utcoffset()
        minutes = 0 if offset is None else int(offset.total_seconds()) // 60
        committer = Signature("ravi", "ravi@agents.invalid", int(now.timestamp()), minutes)
        message = draft.message.with_trailers(self._term).render()
        return objects.put_commit(changed, parents, draft.author, committer, message)

    def _tidy(self) -> None:
        """Fold packs behind the back of whoever waits for a commit; the process ends after it, not before."""
        with contextlib.suppress(OSError, RuntimeError):  # no more threads, say: it is recorded all the same
            packs = self.objects.packs()
            if packs <= FOLD_ABOVE:
                return
            if self._folding is not None and self._folding.is_alive():
                if packs > 2 * FOLD_ABOVE:  # we make them faster than they are folded
                    self._folding.join()
                return
            folding = threading.Thread(target=self.objects.fold, name="ravi-fold")
            folding.start()
            self._folding = folding


def _term(blob: bytes) -> int:
    import json

    try:
        return int(json.loads(blob)["epoch"])
    except (ValueError, KeyError, TypeError):
        return 0


def _holder(blob: bytes) -> str:
    import json

    try:
        return str(json.loads(blob)["holder"])
    except (ValueError, KeyError, TypeError):
        return "another process"
