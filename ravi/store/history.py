"""The main line as a stream: its commits after a cursor, each with the events it made, and the cursors themselves."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from ravi.core import places, trailers
from ravi.core.changes import Change, events_of, message_of
from ravi.core.event import Event
from ravi.core.task import Task
from ravi.core.times import stamp
from ravi.store.objects import Signature, TreeEntry
from ravi.store.refs import MAIN
from ravi.store.repository import Repository
from ravi.store.writer import Draft

CURSORS = "refs/ravi/cursor/"
_FAR = 100_000  # commits that are looked through for a cursor


class MainLine:
    """What `LogBus` asks of the git log."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._buried: list[tuple[Event, str]] = []

    def commits_after(self, commit: str | None, limit: int) -> Sequence[tuple[str, tuple[Event, ...]]]:
        """The next commits of the first-parent line, oldest first; after a cursor that left it, one difference."""
        objects, tip = self._repository.objects, self._repository.tip()
        if tip is None or tip == commit:
            return ()
        line: list[str] = []
        here: str | None = tip
        while here is not None and here != commit and len(line) < _FAR:
            line.append(here)
            parents = objects.commit(here).parents
            here = parents[0] if parents else None
        if here != commit:  # the line was joined elsewhere: what differs is told as one
            return ((tip, self._events(commit, tip)),)
        return [(oid, self._events(None, oid)) for oid in reversed(line[-limit:])]

    def cursor(self, name: str) -> str | None:
        """Where a consumer stands. One that never read starts at what is recorded now: old history is not replayed."""
        found = self._repository.refs.read(CURSORS + name)
        if found is None and (tip := self._repository.tip()) is not None:
            self._repository.refs.swap(CURSORS + name, tip, None)
            return tip
        return found

    def move(self, name: str, to: str, was: str | None) -> None:
        self._repository.refs.swap(CURSORS + name, to, was)

    def record(self, event: Event) -> bool:
        with self._repository.view() as view:
            if view.seen(event.id):
                return False
        author = Signature("ravi", "ravi@agents.invalid", int(self._repository.now().timestamp()))
        draft = Draft(message_of(event), {}, author, empty_ok=True)
        self._repository.writer.record(lambda _: draft)
        return True

    def bury(self, name: str, event: Event, reason: str) -> None:
        """Kept in memory until the dead letters of events have a document of their own."""
        self._buried.append((event, f"{name}: {reason}"))

    def buried(self, name: str) -> Sequence[tuple[Event, str]]:
        return [one for one in self._buried if one[1].startswith(f"{name}: ")]

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
        if entry is None or tree is None or not entry.is_file:
            return None
        objects = self._repository.objects
        of = objects.read(tree, f"{place.folder}/TASK.md") if place.kind == places.COMMENT else None
        task = (
            places.read(f"{place.folder}/TASK.md", places.Place(places.TASK, place.folder), of)
            if of is not None
            else None
        )
        return places.read(path, place, objects.blob(entry.oid), task.id if isinstance(task, Task) else "")


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
