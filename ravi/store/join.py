"""Two lines of one workspace, recorded apart, become one tree.

One side leads: where both changed the same place, its text stands. Nobody's text is lost, because both sides are
parents of the commit that is made of it. What git's own merge does not know is put right first: a task that moved is
compared at one place, two tasks that were made under one id stay two, a deletion does not undo somebody's edit, and
work that both sides did for one task is there once.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ravi.core import comment, document, places, trailers
from ravi.core import run as runs
from ravi.core.ids import derive_id, task_of
from ravi.core.trailers import Message
from ravi.errors import Malformed, Refused
from ravi.store.git import run
from ravi.store.locks import Lock
from ravi.store.merge import merge_blobs, merge_trees
from ravi.store.objects import Change, Difference, Objects, Signature, TreeEntry
from ravi.store.refs import MAIN

if TYPE_CHECKING:
    from ravi.store.repository import Repository

_BASES = 8  # of lines that were merged crosswise; more say nothing new
STAYS = "deleted on one side and changed on the other; it stays"


class Joined(NamedTuple):
    """The tree, and what a person should know: `conflicts` (path, where), `withheld` runs, `renamed` (old, new) ids."""

    tree: str
    conflicts: tuple[tuple[str, str], ...] = ()
    withheld: tuple[str, ...] = ()
    review: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


class _End(NamedTuple):
    """The merge commit that brought a run back."""

    commit: str
    parent: str
    run: str
    when: int


def join(objects: Objects, git_dir: str, leading: str, other: str) -> Joined:
    """What two commits come to. Raises Refused when they have no commit in common."""
    base = _base(objects, git_dir, leading, other)
    if base is None:
        raise Refused(
            f"{leading[:10]} and {other[:10]} have no commit in common",
            hint="a clone begins with `git clone`; two workspaces cannot become one",
        )
    ends = _ends(objects, git_dir, other, leading)
    tasks = {task_of(one.run) for one in _ends(objects, git_dir, leading, other)}
    withheld = [one for one in ends if task_of(one.run) in tasks]
    theirs = _without(objects, objects.commit(other).tree, withheld)
    sides = _Sides(objects, base, objects.commit(leading).tree, theirs)
    sides.align()
    conflicts = sides.keep_what_was_edited()
    merged = merge_trees(objects, sides.base, sides.leading, sides.other, "ours")
    changes: dict[str, Change] = dict(merged.changes)
    conflicts += [one for one in merged.conflicts if one not in conflicts]
    for path in [path for path, change in changes.items() if isinstance(change, TreeEntry)]:
        if _is_spoilt(objects, path, changes[path], sides.leading):
            changes[path] = objects.entry(sides.leading, path)
            conflicts.append((path, "body"))
    changes |= dict(_told(objects, withheld, sides))
    review = _in_review(objects, [one for one in ends if one not in withheld], conflicts, changes, sides)
    return Joined(
        objects.apply(sides.leading, changes),
        tuple(conflicts),
        tuple(sorted({one.run for one in withheld})),
        tuple(review),
        tuple(sides.renamed),
    )


def record(repository: "Repository", tree: str, parents: tuple[str, ...], message: Message, was: str) -> str:
    """Move the main line from `was` to a commit of this tree; the first parent is the line that goes on.

    The writer makes commits on top of what is recorded here; this one may be made on top of what a remote has. Raises
    Conflict when something was recorded meanwhile.
    """
    now = repository.now()
    ravi = Signature("ravi", "ravi@agents.invalid", int(now.timestamp()))
    commit = repository.objects.put_commit(tree, parents, ravi, ravi, message.render())
    forward(repository, commit, was)
    return commit


def forward(repository: "Repository", commit: str, was: str) -> None:
    """Move the main line from `was` to a commit that holds it. Raises Conflict, or Deposed."""
    with Lock(os.path.join(repository.beside, "writer.lock")).held():
        repository.writer.check_epoch()
        repository.objects.flush()
        repository.refs.swap(MAIN, commit, was)
    repository.objects.release()


class _Sides:
    """The three trees, brought to where they can be compared path by path."""

    def __init__(self, objects: Objects, base: str, leading: str, other: str) -> None:
        self.objects = objects
        self.base = base
        self.leading = leading
        self.other = other
        self.renamed: list[tuple[str, str]] = []
        self.moved: dict[str, str] = {}  # folders of the other side -> where they are now

    def align(self) -> None:
        """Have each task at one place on all sides, and no two tasks at one."""
        left, came = self._tasks(self.leading)
        also_left, also_came = self._tasks(self.other)
        moves = _Moves({}, {}, {})
        for id in (left.keys() & came.keys()) | (also_left.keys() & also_came.keys()):
            was = left.get(id) or also_left[id]
            is_led = id in left and id in came
            place = came[id] if is_led else also_came[id]
            moves.base[was] = place
            if not is_led:
                moves.leading[was] = place
            at = also_came.get(id, was) if id in also_left else was
            if at != place:
                moves.other[at] = place
        edits: dict[str, TreeEntry] = {}
        for id, folder in also_came.items():
            if id not in also_left:
                self._part(id, folder, came.get(id) if id not in left else None, moves, edits)
        self.base = _moved(self.objects, self.base, moves.base)
        self.leading = _moved(self.objects, self.leading, moves.leading)
        self.other = _moved(self.objects, self.objects.apply(self.other, edits) if edits else self.other, moves.other)
        self.moved = moves.other

    def keep_what_was_edited(self) -> list[tuple[str, str]]:
        """Put back what one side deleted and the other changed, a task with all that is in its folder.

        RUN.md is the leading side's as a whole: half of one attempt and half of another is neither.
        """
        sides = [{one.path: one for one in self._diff(side)} for side in (self.leading, self.other)]
        back: list[dict[str, Change]] = [{}, {}]
        conflicts: list[tuple[str, str]] = []
        for mine, yours, put in ((sides[0], sides[1], back[0]), (sides[1], sides[0], back[1])):
            for path, one in mine.items():
                if one.new is None and path in yours and yours[path].new is not None:
                    conflicts.append((path, STAYS))
                    start = path.removesuffix("TASK.md") if _is_task(path) else path
                    put |= {p: d.old for p, d in mine.items() if p.startswith(start) and d.new is None}
        for path in sides[0].keys() & sides[1].keys():
            place = places.place_of(path)
            if place is not None and place.kind == places.RUN and (entry := sides[0][path].new) is not None:
                back[1][path] = entry
        self.leading = self.objects.apply(self.leading, back[0]) if back[0] else self.leading
        self.other = self.objects.apply(self.other, back[1]) if back[1] else self.other
        return conflicts

    def _part(self, id: str, folder: str, owner: str | None, moves: "_Moves", edits: dict[str, TreeEntry]) -> None:
        """A task that is new on the other side: at a place, and under an id, that the leading side gave to none."""
        path = f"{folder}/TASK.md"
        entry = self.objects.entry(self.other, path)
        taken = self.objects.entry(self.leading, path)
        if entry is None:
            return
        suffix = derive_id(id, entry.oid)[:6]
        if owner is not None:
            known = self.objects.entry(self.leading, f"{owner}/TASK.md")
            if known is not None and not _is_same_task(self.objects, known, entry):
                another = f"{id[:57]}-{suffix}"
                data = self.objects.blob(entry.oid)
                try:
                    data = document.edit(data, {"id": another, "status": "draft"}, path=path)
                except Malformed:
                    return
                edits[path] = TreeEntry(entry.mode, self.objects.put_blob(data))
                above, _, name = folder.rpartition("/")
                moves.other[folder] = f"{above}/{another}" if name == id else f"{folder}-{suffix}"
                self.renamed.append((id, another))
            elif owner != folder:
                moves.other[folder] = owner
        elif taken is not None and _id(self.objects, path, taken) not in ("", id):
            moves.other[folder] = f"{folder}-{suffix}"

    def _tasks(self, side: str) -> tuple[dict[str, str], dict[str, str]]:
        """The ids of tasks that left a folder since the base, and of those that came to one, each with the folder."""
        left: dict[str, str] = {}
        came: dict[str, str] = {}
        for path, old, new in self._diff(side):
            if _is_task(path):
                was, now = (_id(self.objects, path, entry) if entry else "" for entry in (old, new))
                if was != now:
                    left |= {was: path[:-8]} if was else {}
                    came |= {now: path[:-8]} if now else {}
        return left, came

    def _diff(self, side: str) -> Iterator[Difference]:
        return self.objects.diff(self.base, side)


class _Moves(NamedTuple):
    """By side: the folder of a task, and where it is to be compared."""

    base: dict[str, str]
    leading: dict[str, str]
    other: dict[str, str]


# -- steps


def _base(objects: Objects, git_dir: str, one: str, other: str, depth: int = 0) -> str | None:
    """The tree that both began with; of lines that were merged crosswise, what their beginnings come to."""
    found = run(["merge-base", "--all", one, other], git_dir, ok=(0, 1)).decode().split()[:_BASES]
    if not found:
        return None
    tree = objects.commit(found[0]).tree
    for number, oid in enumerate(found[1:] if depth < _BASES else ()):
        start = _base(objects, git_dir, found[number], oid, depth + 1)
        merged = merge_trees(objects, start, tree, objects.commit(oid).tree, "ours")
        tree = objects.apply(tree, merged.changes)
    return tree


def _ends(objects: Objects, git_dir: str, tip: str, without: str) -> list[_End]:
    """The runs that came back on one line and not on the other, the latest first."""
    words = ["rev-list", "--merges", "--grep=^Ravi-Run: ", tip, f"^{without}"]
    found = []
    for oid in run(words, git_dir).decode().split():
        commit = objects.commit(oid)
        told = trailers.parse(commit.message).trailers
        name = told.get("Ravi-Run", "")
        if name and told.get("Ravi-Event") == derive_id("run.ended", name):
            found.append(_End(oid, commit.parents[0], name, commit.committer.when))
    return found


def _without(objects: Objects, tree: str, ends: Iterable[_End]) -> str:
    """A tree with what these runs brought taken out again; what somebody did to it later stays."""
    for one in ends:
        changes: dict[str, Change] = {}
        for path, old, new in objects.diff(one.parent, one.commit):
            now = objects.entry(tree, path)
            if now == new:
                changes[path] = old
            elif now and new and now.is_file and new.is_file:
                before = objects.blob(old.oid) if old and old.is_file else b""
                merged = merge_blobs(path, objects.blob(new.oid), objects.blob(now.oid), before, "ours")
                changes[path] = TreeEntry(now.mode, objects.put_blob(merged.data))
        tree = objects.apply(tree, changes) if changes else tree
    return tree


def _moved(objects: Objects, tree: str, moves: Mapping[str, str]) -> str:
    """A tree with folders at other places; of folders in each other the inner one goes its own way."""
    gone: dict[str, Change] = {}
    come: dict[str, Change] = {}
    inner_first = sorted(moves, key=len, reverse=True)
    for start in moves:
        entry = objects.entry(tree, start)
        for path, file in objects.walk(entry.oid, start) if entry and entry.is_folder else ():
            folder = next(one for one in inner_first if path.startswith(f"{one}/"))
            gone[path] = None
            come[moves[folder] + path[len(folder) :]] = file
    return objects.apply(tree, {**gone, **come}) if gone else tree


def _told(objects: Objects, withheld: Iterable[_End], sides: _Sides) -> Iterator[tuple[str, Change]]:
    """A comment for each piece of work that was done and is not taken, under a name that any clone would give it."""
    for one in withheld:
        number = one.run.rpartition(".")[2]
        changed = objects.diff(one.parent, one.commit)
        found = next((d for d in changed if d.new and d.path.endswith(f"/runs/{number}/RUN.md")), None)
        if found is None or found.new is None:
            continue
        try:
            ended = runs.parse(found.path, objects.blob(found.new.oid))
        except Malformed:
            continue
        folder = ended.folder
        folder = sides.moved.get(folder, folder)
        if ended.status != runs.SUCCEEDED or objects.entry(sides.leading, f"{folder}/TASK.md") is None:
            continue
        when = datetime.fromtimestamp(one.when, UTC)
        text = (
            f"Run {one.run} of agent {ended.agent} also succeeded in a clone that did not lead any more. Its work is"
            f" not taken, because this task was worked on here as well. To see it:"
            f" `git show -m --first-parent {one.commit[:12]}`\n"
        )
        path = comment.place(folder, when, derive_id("withheld", one.run, one.commit))
        yield path, document.render(comment.front("ravi", when), text)


def _in_review(
    objects: Objects,
    ends: Iterable[_End],
    conflicts: Iterable[tuple[str, str]],
    changes: dict[str, Change],
    sides: _Sides,
) -> list[str]:
    """Hand the tasks to a person whose runs, in the clone that does not lead, changed what was changed here too."""
    where = {path for path, _ in conflicts}
    found: list[str] = []
    for one in ends:
        met = [d.path for d in objects.diff(one.parent, one.commit) if d.path in where]
        number = one.run.rpartition(".")[2]
        home = next(
            (d.path for d in objects.diff(one.parent, one.commit) if d.path.endswith(f"/runs/{number}/RUN.md")), ""
        )
        folder = home.removesuffix(f"/runs/{number}/RUN.md")
        path = f"{sides.moved.get(folder, folder)}/TASK.md"
        now = changes.get(path, objects.entry(sides.leading, path))
        if not met or not home or not isinstance(now, TreeEntry):
            continue
        data = objects.blob(now.oid)
        if _status(path, data) not in ("open", "done"):
            continue
        shown = f"git show -m --first-parent {one.commit[:12]}"
        note = f"{', '.join(met[:5])} changed here and in run {one.run} of another clone; see `{shown}`"
        edited = document.edit(data, {"status": "review", "blocker": note}, path=path)
        changes[path] = TreeEntry(now.mode, objects.put_blob(edited))
        found.append(task_of(one.run))
    return found


def _is_spoilt(objects: Objects, path: str, change: Change, leading: str) -> bool:
    """True when a document that could be read on the leading side cannot be any more."""
    if not path.endswith((".md", ".yaml")) or not isinstance(change, TreeEntry) or places.place_of(path) is None:
        return False
    before = objects.entry(leading, path)
    if before is None or not before.is_file or not change.is_file or before == change:
        return False
    return _reads(path, objects.blob(before.oid)) and not _reads(path, objects.blob(change.oid))


def _reads(path: str, data: bytes) -> bool:
    try:
        document.parse(data, path)
    except Malformed:
        return False
    return True


def _is_same_task(objects: Objects, one: TreeEntry, other: TreeEntry) -> bool:
    """True when two clones wrote down one and the same task: as an agent's run does that was made on both."""
    if one.oid == other.oid:
        return True
    try:
        mine, yours = (document.parse(objects.blob(entry.oid)) for entry in (one, other))
    except Malformed:
        return False
    same: Callable[[str], bool] = lambda key: mine.front.get(key) == yours.front.get(key)  # noqa: E731 - a word, twice
    return mine.body.strip() == yours.body.strip() and same("title") and same("parent")


def _id(objects: Objects, path: str, entry: TreeEntry) -> str:
    if not entry.is_file:
        return ""
    try:
        return str(document.parse(objects.blob(entry.oid), path).front.get("id") or "")
    except Malformed:
        return ""


def _status(path: str, data: bytes) -> object:
    try:
        return document.parse(data, path).front.get("status", "draft")
    except Malformed:
        return None


def _is_task(path: str) -> bool:
    place = places.place_of(path)
    return place is not None and place.kind == places.TASK
