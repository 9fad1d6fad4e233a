"""Ingest: what people changed on disk becomes commits, with them as authors.

Files are compared with what was published, three-way, never with HEAD; what ravi wrote makes no difference there, so
there is no echo. What is recorded is what lies there, to the letter; the one thing added is the id of a new task.
"""

import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ravi.core import document, places
from ravi.core.ids import derive_id, is_valid, new_id
from ravi.core.places import Problem
from ravi.core.trailers import Message
from ravi.errors import Malformed
from ravi.store import checkout as checkouts
from ravi.store.git import call, run
from ravi.store.merge import merge_trees
from ravi.store.objects import Change, Objects, Signature, TreeEntry
from ravi.store.publish import Publisher, Standing
from ravi.store.refs import PUBLISHED
from ravi.store.scan import FOLDERS, Found, Scan, is_known
from ravi.store.writer import Draft, Tip

_GONE_FOR = 1.0  # seconds for which a file has to be missing, however small `quiet` is: editors save by renaming
_OPEN_FOR = 10.0  # seconds for which whoever has a file open to write is waited for
_OPEN_AGAIN = 0.05
_SOME = 20  # missing files up to which nobody is asked whether it is meant
_MANY = 64  # tasks changed at once, from which on they become one commit
_BACK = 200  # versions of a file among which that of a stale editor is looked for
_LATELY = 1000  # commits that may lie between what is published and what is recorded, and hold this very save


class Recorded(NamedTuple):
    """What came of looking. `waiting` are files that do not lie still yet; look at them again at `again`."""

    commits: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    waiting: tuple[str, ...] = ()
    again: float = math.inf  # by the clock that `now` comes from
    paused: str = ""


class _Seen(NamedTuple):
    entry: TreeEntry | None
    since: float


@dataclass(slots=True)
class _Group:
    """What becomes one commit: all that belongs to one task, or all the rest."""

    task: str  # its id, or the name of its folder where it has none; "" for the rest
    has_id: bool = False
    found: list[Found] = field(default_factory=list)
    tasks: int = 1


class _Made(NamedTuple):
    commit: str | None
    problems: list[Problem]


class Ingest:
    """Takes what people saved. Time is an argument: nothing here waits."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        owner_of: Callable[[str], str | None],
        entropy: Callable[[int], bytes],
    ) -> None:
        """`owner_of` tells where the task with an id lies, as recorded."""
        self._publisher = publisher
        self._objects: Objects = publisher.objects
        self._owner_of = owner_of
        self._entropy = entropy
        self._seen: dict[str, _Seen] = {}

    def look(self, paths: Iterable[str] | None = None, *, now: float = 0.0) -> tuple[Found, ...]:
        """What differs from what was published: at these files and below these folders, or anywhere."""
        looked = None if paths is None else {path.strip("/") for path in paths}
        with self._scan() as scan:
            found = tuple(scan.everything() if looked is None else scan.below(looked))
        differs = {one.path: one.entry for one in found}
        # What lies as published again begins anew the next time: of a file that is missing now and then, as some
        # editors save, two moments must not look like one long one.
        self._seen = {
            path: seen
            for path, seen in self._seen.items()
            if differs.get(path, _Seen) == seen.entry or (path not in differs and not _covers(looked, path))
        }
        for path, entry in differs.items():
            self._seen.setdefault(path, _Seen(entry, now))
        return found

    def record(
        self, found: Iterable[Found], name: str, email: str, *, now: float = 0.0, quiet: float = 0.0
    ) -> Recorded:
        """Commit what was found, as NAME, as far as it has lain still for `quiet` seconds and nothing is in its way."""
        listed = {one.path: one for one in found}
        if not listed:
            return Recorded()
        with self._publisher.at_rest() as standing:
            if standing.paused:
                return Recorded(waiting=tuple(listed), again=now + max(quiet, 1.0), paused=standing.paused)
            with self._scan(standing) as scan:
                sorted_out = self._sorted_out(scan, listed, now, quiet)
            if checkouts.read(self._publisher.dirs, self._publisher.refs) != standing.checkout:
                # what we read may be another branch's: git writes files first and moves HEAD last
                return Recorded(waiting=tuple(listed), again=now + max(quiet, 0.1))
            commits, problems = self._recorded(standing, sorted_out.ready, name, email)
        for path in sorted_out.ready:
            self._seen.pop(path, None)
        return Recorded(
            commits,
            tuple(dict.fromkeys((*_told(standing.conflicts), *sorted_out.problems, *problems))),
            tuple(sorted(sorted_out.waiting)),
            min(sorted_out.waiting.values(), default=math.inf),
        )

    def files(self) -> Iterator[tuple[str, bytes | str]]:
        """Every file in the places ravi knows, as it lies: its bytes, or why it cannot be read."""
        with self._scan() as scan:
            yield from scan.files()

    # -- which of them

    def _scan(self, standing: Standing | None = None) -> Scan:
        publisher = self._publisher
        if standing is None:
            published = publisher.refs.read(PUBLISHED) or publisher.refs.head().oid
        else:
            published = standing.published
        tip = publisher.expected(published)
        trees = publisher.tree(published), publisher.tree(tip)
        return Scan(publisher.dirs, self._objects, *trees, minds_modes=publisher.minds_modes)

    def _sorted_out(self, scan: Scan, listed: Mapping[str, Found], now: float, quiet: float) -> "_SortedOut":
        """Look once more, now that nothing of ours can change, and tell what is ready from what is not."""
        result = _SortedOut()
        wall = self._publisher.writer.clock().timestamp()
        todo = list(listed)
        while todo:
            known = set(result.moves)
            for path in todo:
                self._sort(scan, path, listed, result, now, wall, quiet)
            todo = self._going_along(scan, result, result.moves.keys() - known)
        result.refuse(self._suspicious(scan, result.ready))
        result.refuse(self._filtered(result.ready))
        result.keep_moves_whole()
        return result

    def _sort(
        self,
        scan: Scan,
        path: str,
        listed: Mapping[str, Found],
        result: "_SortedOut",
        now: float,
        wall: float,
        quiet: float,
    ) -> None:
        one = scan.at(path, with_data=True)
        if one is None:
            self._seen.pop(path, None)
            if (before := listed.get(path)) and before.problem:
                result.problems.append(Problem(path, before.problem))
            return
        if one.problem or one.is_staged:
            result.problems.append(Problem(path, one.problem or "is staged; it is yours to commit"))
            return
        moment = self._settles(one, now, wall, quiet)
        if moment > now:
            result.waiting[path] = moment
            return
        result.waiting.pop(path, None)
        if (owner := self._moved_from(scan, one)) is not None:
            result.moves[path] = owner
        if one.data is not None:
            self._objects.put_blob(one.data)
        result.ready[path] = replace(one, data=None)

    def _going_along(self, scan: Scan, result: "_SortedOut", moved: Collection[str]) -> list[str]:
        """What else lies, or lay, in the folders of tasks that moved. It belongs to the move, looked at or not."""
        folders = {one.rpartition("/")[0] for path in moved for one in (path, result.moves[path])}
        found = [one for one in scan.below(folders) if one.path not in result.ready and not one.problem]
        for one in found:
            if one.entry is None:  # nobody is saving it: its task is elsewhere
                self._seen[one.path] = _Seen(None, -math.inf)
        return [one.path for one in found]

    def _settles(self, one: Found, now: float, wall: float, quiet: float) -> float:
        """When a file will have lain still long enough."""
        seen = self._seen.get(one.path)
        if seen is None or seen.entry != one.entry:
            seen = self._seen[one.path] = _Seen(one.entry, now)
        wait = quiet if one.entry else max(quiet, _GONE_FOR)
        if one.is_open and now < seen.since + _OPEN_FOR:
            return now + max(wait, _OPEN_AGAIN)
        age = wall - one.touched if one.touched else math.inf
        if not math.isinf(age) and age >= 2 * wait:  # whoever looks only once must go by the wall clock
            return now
        moment = seen.since + wait
        if (
            one.entry is None and now - seen.since >= _GONE_FOR * 10
        ):  # only its folder tells a time, and that is a busy one
            return moment
        return max(moment, now + wait - age) if 0 <= age < wait else moment

    def _moved_from(self, scan: Scan, one: Found) -> str | None:
        """Where a task that lies at a new place has gone from: a move is one change, not two."""
        if one.base is None and one.data is not None and _is_task(one.path):
            id = _front(one.data).get("id")
            owner = self._owner_of(id) if isinstance(id, str) and is_valid(id) else None
            if owner and owner != one.path and (gone := scan.at(owner)) and gone.entry is None:
                return owner
        return None

    def _suspicious(self, scan: Scan, ready: Mapping[str, Found]) -> Iterator[tuple[str, Problem]]:
        """Files that are missing in a way that nobody deletes files: an unmounted disk, a folder moved away."""
        came = {(one.entry.oid, _name(path)) for path, one in ready.items() if one.entry and not one.base}
        gone: list[str] = []
        moved: dict[str, int] = {}
        for path, one in ready.items():
            if one.entry is None and one.base is not None:
                gone.append(path)
                top = path.partition("/")[0]
                moved[top] = moved.get(top, 0) + ((one.base.oid, _name(path)) in came)
        for folder, count in moved.items():
            is_away = not os.path.isdir(os.path.join(self._publisher.dirs.work_tree, folder))
            if folder not in FOLDERS or not (is_away or len(gone) > _SOME):
                continue
            missing, known = scan.missing(folder)
            if is_away or (missing - count > _SOME and (missing - count) * 2 > known):
                message = f"{missing} files are missing; if you mean it, commit it with git"
                yield from ((path, Problem(folder, message)) for path in gone if path.startswith(f"{folder}/"))

    def _filtered(self, ready: Collection[str]) -> Iterator[tuple[str, Problem]]:
        """Files that git stores in another form than they lie in (LFS): only git knows how."""
        dirs = self._publisher.dirs
        folders = {path[:at] for path in ready for at, letter in enumerate(path) if letter == "/"} | {""}
        attributes = [os.path.join(dirs.work_tree, folder, ".gitattributes") for folder in folders]
        if not any(map(_mentions_filter, [os.path.join(dirs.common_dir, "info", "attributes"), *attributes])):
            return
        asked = "".join(f"{path}\0" for path in ready).encode("utf-8", "surrogateescape")
        said = run(["check-attr", "-z", "--stdin", "filter"], dirs.work_tree, asked).decode("utf-8", "surrogateescape")
        words = said.split("\0")
        for path, value in zip(words[::3], words[2::3], strict=False):
            if value not in ("unspecified", "unset"):
                yield path, Problem(path, f"goes through the git filter `{value}`; commit it with git")

    # -- what becomes of them

    def _recorded(
        self, standing: Standing, ready: Mapping[str, Found], name: str, email: str
    ) -> tuple[tuple[str, ...], list[Problem]]:
        if not ready:
            return (), []
        publisher = self._publisher
        author = publisher.signature(name, email)
        problems: list[Problem] = []
        edits = self._ids(standing, ready, problems)
        groups = self._groups(standing, ready, edits)
        # What lies out is what we have just read, whatever becomes of it on the main line. It is made now, and
        # becomes durable together with the first commit.
        with self._objects.unnamed():
            lying = publisher.lay(standing.published, {path: one.entry for path, one in ready.items()})
            made: list[_Made] = []
            for together in (groups[:1], groups[1:]):
                made += self._commit_all(standing, together, edits, author)
            publisher.point(lying, standing.published)
        problems += [problem for one in made for problem in one.problems]
        return tuple(one.commit for one in made if one.commit), problems

    def _commit_all(
        self,
        standing: Standing,
        groups: list[_Group],
        edits: Mapping[str, Mapping[str, document.Value]],
        author: Signature,
    ) -> "list[_Made]":
        """Each its own commit, and all of them durable together: the writer groups what comes at once."""
        made: dict[int, _Made] = {}
        faults: list[BaseException] = []

        def commit(n: int, group: _Group) -> None:
            try:
                made[n] = self._commit(standing, group, edits, author)
            except BaseException as fault:  # noqa: BLE001 - raised below, in the thread that asked
                faults.append(fault)

        threads = [threading.Thread(target=commit, args=(n, group)) for n, group in enumerate(groups[1:], 1)]
        for thread in threads:
            thread.start()
        for n, group in enumerate(groups[:1]):
            commit(n, group)
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        return [made[n] for n in range(len(groups))]

    def _commit(
        self,
        standing: Standing,
        group: _Group,
        edits: Mapping[str, Mapping[str, document.Value]],
        author: Signature,
    ) -> "_Made":
        publisher, objects = self._publisher, self._objects
        entries = {one.path: one.entry for one in group.found}
        start = publisher.tree(standing.published)
        theirs = objects.apply(start, entries)
        bases = dict(self._stale(standing, group.found))
        parts = [f"{path} {entry.oid if entry else ''}" for path, entry in sorted(entries.items())]
        event = derive_id("ingest", standing.published or "", *parts)
        message = _message(group, author.name, event)
        conflicts: tuple[tuple[str, str], ...] = ()

        def propose(tip: Tip) -> Draft | None:
            nonlocal conflicts
            if self._is_recorded(event, tip.commit, publisher.expected(standing.published)):
                return None
            merged = merge_trees(objects, start, tip.tree, theirs, bases=bases)
            conflicts = merged.conflicts
            changes: dict[str, Change] = dict(merged.changes)
            is_mixed = any(path in entries and change != entries[path] for path, change in changes.items())
            for path, keys in edits.items():
                if path in entries:
                    changes[path] = _edited(objects, path, changes.get(path, entries[path]), keys)
            parents: tuple[str, ...] = ()
            if is_mixed:
                parents = (publisher.saved(standing.published, entries, author, message.subject),)
            return Draft(message, changes, author, parents)

        commit = publisher.writer.record(propose)
        text = "changed here and by ravi at once; yours is taken, the other is in history"
        return _Made(commit, [Problem(path, f"{where}: {text}") for path, where in conflicts])

    def _is_recorded(self, event: str, tip: str | None, until: str | None) -> bool:
        """True when this very save is on the main line already, and a crash kept us from noting it."""
        for _ in range(_LATELY):
            if tip is None or tip == until:
                break
            commit = self._objects.commit(tip)
            if f"\nRavi-Event: {event}\n" in commit.message:
                return True
            tip = commit.parents[0] if commit.parents else None
        return False

    def _stale(self, standing: Standing, found: Iterable[Found]) -> Iterator[tuple[str, bytes]]:
        """For files saved by an editor that had an older version open: that version, found by its `updated`.

        Several may bear the same; the nearest to what was saved is what the editor began with.
        """
        for one in found:
            if not (one.base and one.entry and one.base.is_file and one.path.endswith((".md", ".yaml", ".yml"))):
                continue
            stamp = _front(self._objects.blob(one.entry.oid)).get("updated")
            if stamp is None or stamp == _front(self._objects.blob(one.base.oid)).get("updated"):
                continue
            older = list(self._bearing(stamp, one.path, standing.recorded))
            if older:
                saved = self._objects.blob(one.entry.oid)
                yield one.path, min(older, key=lambda data: _distance(data, saved))

    def _bearing(self, stamp: object, path: str, recorded: str | None) -> Iterator[bytes]:
        """Versions of a file with this stamp, newest first, among them those that people saved while ravi wrote."""
        if recorded is None:
            return
        asked = ["rev-list", f"--max-count={_BACK}", recorded, "--", path]
        for commit in call(asked, self._publisher.dirs.work_tree).out.split():
            data = self._objects.read(commit.decode(), path)
            if data is not None and _front(data).get("updated") == stamp:
                yield data

    # -- whose they are

    def _ids(
        self, standing: Standing, ready: Mapping[str, Found], problems: list[Problem]
    ) -> dict[str, dict[str, document.Value]]:
        """What has to be written into front matter: an id where there is none, another one in a copy."""
        edits: dict[str, dict[str, document.Value]] = {}
        taken: dict[str, str] = {}
        for path, one in sorted(ready.items()):
            if one.entry is None:
                continue
            data = self._objects.blob(one.entry.oid)
            place = places.place_of(path)
            noun = places.read(path, place, data) if place else None
            if isinstance(noun, Problem):
                problems.append(noun)
            if not _is_task(path):
                continue
            try:
                front = document.parse(data, path).front
            except Malformed:
                continue  # recorded as it lies; the problem is told above
            id, known = front.get("id"), self._known_id(one)
            if id is not None and not is_valid(id):
                problems.append(Problem(path, f"{id!r} is not an id", key="id"))
            elif id is None:
                edits[path] = {"id": known or new_id(_title(path, front, data), self._entropy(4))}
            elif id != known and (owner := self._owner(str(id), path, standing, ready) or taken.get(str(id))):
                if known:  # another task's file was copied over this one
                    edits[path] = {"id": known}
                    problems.append(Problem(path, f"the id {id} belongs to {owner}; it stays {known} here", key="id"))
                else:
                    edits[path] = {"id": new_id(_title(path, front, data), self._entropy(4)), "status": "draft"}
            elif known and id != known:
                problems.append(Problem(path, f"the id was {known}, and ids never change; put it back", key="id"))
            taken.setdefault(str(edits.get(path, {}).get("id", id)), path)
        return edits

    def _known_id(self, one: Found) -> str:
        """The id that the published version of a file has; "" for a new file."""
        if one.base is None or not one.base.is_file:
            return ""
        id = _front(self._objects.blob(one.base.oid)).get("id")
        return id if isinstance(id, str) and is_valid(id) else ""

    def _owner(self, id: str, path: str, standing: Standing, ready: Mapping[str, Found]) -> str | None:
        """The other file that has this id, unless it goes away in the same moment."""
        owner = self._owner_of(id)
        if owner is None or owner == path or standing.recorded is None:
            return None
        if (one := ready.get(owner)) and one.entry is None:
            return None
        return owner if self._objects.entry(standing.recorded, owner) else None

    def _groups(
        self,
        standing: Standing,
        ready: Mapping[str, Found],
        edits: Mapping[str, Mapping[str, document.Value]],
    ) -> list[_Group]:
        """One group for each task; all the rest first, because tasks may need the agents in it."""
        rest = _Group("")
        tasks: dict[str, _Group] = {}
        names: dict[str, tuple[str, bool]] = {}
        for path, one in sorted(ready.items()):
            folder = self._task_folder(standing, path, ready)
            if folder is None:
                rest.found.append(one)
                continue
            if folder not in names:
                names[folder] = self._task_id(standing, f"{folder}/TASK.md", ready, edits)
            id, has_id = names[folder]
            tasks.setdefault(id, _Group(id, has_id)).found.append(one)
        if len(tasks) > _MANY:
            return [_Group("", found=list(ready.values()), tasks=len(tasks))]
        return [*([rest] if rest.found else []), *tasks.values()]

    def _task_folder(self, standing: Standing, path: str, ready: Mapping[str, Found]) -> str | None:
        folder = path.rpartition("/")[0]
        while folder.startswith("tasks/"):
            task = f"{folder}/TASK.md"
            is_there = task in ready or (standing.recorded and self._objects.entry(standing.recorded, task))
            if is_there and _is_task(task):
                return folder
            folder = folder.rpartition("/")[0]
        return None

    def _task_id(
        self,
        standing: Standing,
        path: str,
        ready: Mapping[str, Found],
        edits: Mapping[str, Mapping[str, document.Value]],
    ) -> tuple[str, bool]:
        """The id of the task at `path`, or its folder's name where it has none."""
        id: object = edits.get(path, {}).get("id")
        if id is None:
            one = ready.get(path)
            entry = (one.entry or one.base) if one else None
            if entry is None and standing.recorded:
                entry = self._objects.entry(standing.recorded, path)
            id = _front(self._objects.blob(entry.oid)).get("id") if entry and entry.is_file else None
        return (id, True) if isinstance(id, str) and is_valid(id) else (path.split("/")[-2], False)


@dataclass(slots=True)
class _SortedOut:
    ready: dict[str, Found] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    moves: dict[str, str] = field(default_factory=dict)  # a task's new path -> where it has gone from

    def refuse(self, refused: Iterable[tuple[str, Problem]]) -> None:
        for path, problem in list(refused):
            self.ready.pop(path, None)
            self.problems.append(problem)

    def keep_moves_whole(self) -> None:
        """Take a task at its new place only together with its going from the old one; else it would be a copy.

        What lies in its folder goes with it: it is waited for.
        """
        for path, owner in self.moves.items():
            if path in self.ready and owner not in self.ready and owner not in self.waiting:
                del self.ready[path]
                self.problems.append(Problem(path, f"came from {owner}, which cannot be taken as it is"))
        folders = {one.rpartition("/")[0]: path for path, owner in self.moves.items() for one in (path, owner)}
        late: dict[str, float] = {}
        for path, moment in self.waiting.items():
            if (move := _nearest(path, folders)) is not None:
                late[move] = max(moment, late.get(move, 0.0))
        for path in list(self.ready) if late else ():
            if (move := _nearest(path, folders)) in late:
                del self.ready[path]
                self.waiting[path] = late[move]


_HEADING = re.compile(rb"^#{1,6}[ \t]+(.+?)[ \t#]*\r?$", re.MULTILINE)


def _message(group: _Group, name: str, event: str) -> Message:
    if not group.task:
        what = f"{group.tasks} tasks edited" if group.tasks > 1 else "edited"
        return Message(f"workspace: {what} by {name}", "", {"Ravi-Event": event})
    tasks = [one for one in group.found if _is_task(one.path)]
    made = any(one.base is None for one in tasks)
    gone = any(one.entry is None for one in tasks)
    is_talk = all("/comments/" in one.path and one.base is None for one in group.found)
    verb = (
        "moved" if made and gone else "created" if made else "deleted" if gone else "commented" if is_talk else "edited"
    )
    trailers = {"Ravi-Event": event, **({"Ravi-Task": group.task} if group.has_id else {})}
    return Message(f"task {group.task}: {verb} by {name}", "", trailers)


def _edited(objects: Objects, path: str, change: Change, keys: Mapping[str, document.Value]) -> Change:
    """The file with these keys set, or as it is where that would change anything else."""
    if not isinstance(change, TreeEntry):
        return change
    try:
        data = document.edit(objects.blob(change.oid), keys, path=path)
    except Malformed:
        return change
    return TreeEntry(change.mode, objects.put_blob(data))


def _front(data: bytes) -> Mapping[str, object]:
    try:
        return document.parse(data).front
    except Malformed:
        return {}


def _distance(one: bytes, other: bytes) -> int:
    """In how many lines two texts differ."""
    lines, others = Counter(one.splitlines()), Counter(other.splitlines())
    return (lines - others).total() + (others - lines).total()


def _title(path: str, front: Mapping[str, object], data: bytes) -> str:
    """What a task without an id is called: its title, its first heading, else its folder."""
    title = front.get("title")
    if isinstance(title, str) and title.strip():
        return title
    heading = _HEADING.search(data)
    return heading[1].decode("utf-8", "replace") if heading else path.split("/")[-2]


def _is_task(path: str) -> bool:
    place = places.place_of(path)
    return place is not None and place.kind == places.TASK and is_known(path)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _nearest(path: str, folders: Mapping[str, str]) -> str | None:
    """What `folders` says of the innermost of them that `path` lies in."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return folders[path]
    return None


def _covers(looked: Collection[str] | None, path: str) -> bool:
    """True when `path` is at or below what was looked at; None is everything."""
    if looked is None or path in looked or "" in looked:
        return True
    return any(path[:at] in looked for at, letter in enumerate(path) if letter == "/")


def _mentions_filter(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"filter=" in file.read()
    except OSError:
        return False


def _told(conflicts: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    for path, where in conflicts:
        yield Problem(path, f"{where}: changed in your commit and by ravi; yours is taken, the other is in history")
