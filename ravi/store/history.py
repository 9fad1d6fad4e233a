"""The main line as a stream: its commits after a cursor, each with the events it made, and the cursors themselves."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from ravi.core import places, trailers
from ravi.core.changes import Change, events_of, message_of
from ravi.core.event import Event
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.times import stamp
from ravi.errors import Conflict
from ravi.store.objects import Signature, TreeEntry
from ravi.store.refs import MAIN
from ravi.store.repository import Repository
from ravi.store.writer import Draft, Tip

CURSORS = "refs/ravi/cursor/"
DEAD = "refs/ravi/dead/"


class MainLine:
    """What `LogBus` asks of the git log. Used by one thread at a time, but for `record`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._line: list[str] = []  # the end of the first-parent line, oldest first, as far as it has been walked
        self._place: dict[str, int] = {}

    def commits_after(self, commit: str | None, limit: int) -> Sequence[tuple[str, tuple[Event, ...]]]:
        """The next commits of the first-parent line, oldest first; after a cursor that left it, one difference."""
        tip = self._repository.tip()
        if tip is None or tip == commit:
            return ()
        if not self._walked(tip, commit):  # the line was joined elsewhere: what differs is told as one
            return ((tip, self._events(commit, tip)),)
        start = 0 if commit is None else self._place[commit] + 1
        return [(oid, self._events(None, oid)) for oid in self._line[start : start + limit]]

    def events_of(self, commit: str) -> tuple[Event, ...]:
        """What one commit of the main line made happen."""
        return self._events(None, commit)

    def begin(self, name: str) -> None:
        """Have a consumer that never read here start at what is recorded now: a clone replays no old history."""
        tip = self._repository.tip()
        if tip is not None and self._repository.refs.read(CURSORS + name) is None:
            self._repository.refs.swap(CURSORS + name, tip, None)

    def cursor(self, name: str) -> str | None:
        return self._repository.refs.read(CURSORS + name)

    def move(self, name: str, to: str, was: str | None) -> None:
        refs, writer, name = self._repository.refs, self._repository.writer, CURSORS + name
        writer.check_epoch()
        try:
            refs.swap(name, to, was)
        except Conflict:  # moved by one that led before us, was stopped for a while, and did not know yet
            if writer.epoch is None:
                raise
            writer.check_epoch()
            refs.swap(name, to, refs.read(name))

    def record(self, event: Event) -> bool:
        """Commit an event; False when one with its id is recorded, also by somebody at the same moment."""
        with self._repository.view() as view:
            recorded = self._repository.recorded(event.id, view)
        author = Signature("ravi", "ravi@agents.invalid", int(self._repository.now().timestamp()))

        def propose(tip: Tip) -> Draft | None:
            if recorded(tip.commit):
                return None
            return Draft(message_of(event), {}, author, empty_ok=True)

        return self._repository.writer.record(propose) is not None

    def bury(self, name: str, event: Event, reason: str) -> None:
        """Keep a dead letter below `refs/ravi/dead/`: one blob with the event and the reason, durable on return."""
        repository = self._repository
        text = json.dumps({"event": asdict(event), "reason": reason}, sort_keys=True) + "\n"
        ref = f"{DEAD}{name}/{event.id}"
        before = repository.refs.read(ref)
        oid = repository.objects.put_blob(text.encode())
        repository.objects.flush()
        if oid != before:
            repository.refs.swap(ref, oid, before)

    def buried(self, name: str) -> Sequence[tuple[Event, str]]:
        objects = self._repository.objects
        told = [json.loads(objects.blob(oid)) for oid in self._repository.refs.list(f"{DEAD}{name}/").values()]
        return [(Event(**one["event"]), one["reason"]) for one in told]

    def _walked(self, tip: str, commit: str | None) -> bool:
        """Have the line known from `commit` to `tip`; False when `commit` does not lie on it."""
        if not self._line or self._line[-1] != tip or (commit is not None and commit not in self._place):
            known = self._place if commit in self._place else {}
            new: list[str] = []
            here: str | None = tip
            while here is not None and here != commit and here not in known:
                new.append(here)
                parents = self._repository.objects.commit(here).parents
                here = parents[0] if parents else None
            if here is None and commit is not None:
                return False
            kept = self._line[self._place[commit] : self._place[here] + 1] if here in known and commit in known else []
            start = kept or ([commit] if commit is not None else [])
            self._line = [*start, *reversed(new)]
            self._place = {oid: number for number, oid in enumerate(self._line)}
        return True

    def _events(self, since: str | None, oid: str) -> tuple[Event, ...]:
        objects = self._repository.objects
        commit = objects.commit(oid)
        before = since or (commit.parents[0] if commit.parents else None)
        old = objects.commit(before).tree if before else None
        changes = []
        for path, was, now in objects.diff(old, commit.tree):
            if (place := places.place_of(path)) is not None:
                changes.append(
                    Change(path, self._noun(path, place, was, old), self._noun(path, place, now, commit.tree))
                )
        when = stamp(datetime.fromtimestamp(commit.committer.when, UTC))
        return events_of(oid, trailers.parse(commit.message), changes, time=when)

    def _noun(self, path: str, place: places.Place, entry: TreeEntry | None, tree: str | None) -> places.Noun | None:
        """What a document says; nothing for a run that lies in another task's folder (a copy, made by hand)."""
        if entry is None or tree is None or not entry.is_file:
            return None
        task = self._task_of(place, tree) if place.kind in (places.COMMENT, places.RUN) else ""
        noun = places.read(path, place, self._repository.objects.blob(entry.oid), task)
        return None if isinstance(noun, Run) and task and noun.task != task else noun

    def _task_of(self, place: places.Place, tree: str) -> str:
        """The id of the task whose folder a comment or a run lies in."""
        path = f"{place.folder}/TASK.md"
        data = self._repository.objects.read(tree, path)
        task = places.read(path, places.Place(places.TASK, place.folder), data) if data is not None else None
        return task.id if isinstance(task, Task) else ""


class Note:
    """A few bytes of our own in git, as a blob that a ref below `refs/ravi/` names. Durable on return."""

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository = repository
        self._ref = f"refs/ravi/{name}"

    def read(self) -> bytes:
        """What is there; empty where nothing was written yet."""
        oid = self._repository.refs.read(self._ref)
        return b"" if oid is None else self._repository.objects.blob(oid)

    def write(self, data: bytes) -> None:
        """Keep this instead."""
        objects, refs = self._repository.objects, self._repository.refs
        oid = objects.put_blob(data)
        objects.flush()
        if (before := refs.read(self._ref)) != oid:
            refs.swap(self._ref, oid, before)
        objects.release()


def commits(root: str, *, limit: int, naming: Sequence[tuple[str, str]] = ()) -> list[str]:
    """The newest commits of the main line, by oid; with `naming`, those that carry one of these trailers, side branches
    included.
    """
    import git  # 80 ms to import, so not at the top

    words = [f"^{name}: {re.escape(value)}$" for name, value in naming]
    with git.Repo(root, search_parent_directories=False) as repo:
        found = repo.iter_commits(
            MAIN, max_count=limit, first_parent=not naming, grep=words or None, extended_regexp=bool(words)
        )
        return [commit.hexsha for commit in found]
