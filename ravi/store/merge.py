"""Three-way merging of what a person and ravi did to the same files: by key in front matter, by line in text.

Where both changed the same place one side wins, and the conflict is named. The text that lost stays in history.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from ravi.core import document
from ravi.errors import Malformed, Unavailable
from ravi.store.git import call
from ravi.store.objects import Change, Difference, Objects, TreeEntry

Side = Literal["ours", "theirs"]


class Merged(NamedTuple):
    """The joined text; `conflicts` names the keys, or `body`, that both sides changed differently."""

    data: bytes
    conflicts: tuple[str, ...] = ()


class MergedTrees(NamedTuple):
    """What has to change in our tree; `conflicts` are (path, the key or `body` or what became of the file)."""

    changes: Mapping[str, Change]
    conflicts: tuple[tuple[str, str], ...] = ()


def merge_blobs(path: str, base: bytes | None, ours: bytes, theirs: bytes, prefer: Side = "theirs") -> Merged:
    """One file. `base` is None when both made it anew. The result never has conflict markers of ours in it."""
    if theirs in (ours, base):
        return Merged(ours)
    if ours == base:
        return Merged(theirs)
    if path.endswith(".md"):
        with contextlib.suppress(Malformed):
            return _merge_document(path, base or b"", ours, theirs, prefer)
    return _merge_text(path, base or b"", ours, theirs, prefer)


def merge_trees(
    objects: Objects,
    base: str | None,
    ours: str | None,
    theirs: str | None,
    prefer: Side = "theirs",
    *,
    bases: Mapping[str, bytes] | None = None,
) -> MergedTrees:
    """What they did to `base`, done to our tree (trees or commits; None is an empty one).

    A file that they moved and we changed moves with our change in it, and what we added to a task's folder goes where
    they moved the task, as do its runs, comments and outputs. `bases` holds, by path, another text to start from than
    the one in `base`: that of an editor which had an older version open.
    """
    differences = list(objects.diff(base, theirs))
    moves = _moves(objects, differences, ours)
    left = set(moves.values())
    changes: dict[str, Change] = {}
    conflicts: list[tuple[str, str]] = []
    for path, old, new in differences:
        if path in left:
            changes[path] = None
            continue
        mine = _entry(objects, ours, path)
        if path in moves:
            changes[path] = new
            old, mine = _entry(objects, base, moves[path]), _entry(objects, ours, moves[path])
        start = bases.get(path) if bases else None
        if mine == new:
            continue
        if mine == old and start is None:
            changes[path] = new
        elif mine and new and mine.is_file and new.is_file:
            if start is None and old and old.is_file:
                start = objects.blob(old.oid)
            merged = merge_blobs(path, start, objects.blob(mine.oid), objects.blob(new.oid), prefer)
            conflicts += [(path, where) for where in merged.conflicts]
            mode = mine.mode if old and new.mode == old.mode else new.mode
            changes[path] = TreeEntry(mode, objects.put_blob(merged.data))
        else:
            conflicts.append((path, "deleted" if new is None else "replaced" if mine else "deleted by ravi"))
            if prefer == "theirs":
                changes[path] = new
    for old_folder, new_folder in _folders(objects, differences):
        for path, new in _left_behind(objects, base, ours, old_folder):
            place = new_folder + path[len(old_folder) :]
            if path not in changes and place not in changes and _entry(objects, ours, place) is None:
                changes |= {path: None, place: new}
    return _fitting(objects, ours, changes, conflicts, prefer)


# -- steps


def _merge_document(path: str, base: bytes, ours: bytes, theirs: bytes, prefer: Side) -> Merged:
    front = document.merge_front(base, ours, theirs, prefer, path=path)
    head, _ = document.split(front.data, path)
    was, mine, yours = (document.split(side, path)[1] for side in (base, ours, theirs))
    if yours in (was, mine):
        body = Merged(mine)
    elif mine == was:
        body = Merged(yours)
    else:
        body = _merge_text(path, was, mine, yours, prefer)
    data = head + body.data
    document.parse(data, path)  # two sides that can be read must not become one that cannot
    return Merged(data, front.conflicts + body.conflicts)


def _merge_text(path: str, base: bytes, ours: bytes, theirs: bytes, prefer: Side) -> Merged:
    """By line, as git does. Line ends are those that one side changed to, and make no conflict by themselves."""
    ends = [_line_end(side) for side in (base, ours, theirs)]
    if len(set(ends)) == 1:
        return _merge_lines(path, base, ours, theirs, prefer)
    was, mine, yours = (side.replace(b"\r\n", b"\n") for side in (base, ours, theirs))
    merged = _merge_lines(path, was, mine, yours, prefer)
    end = ends[2] if ends[2] != ends[0] else ends[1]
    return Merged(merged.data.replace(b"\n", end), merged.conflicts)


def _merge_lines(path: str, base: bytes, ours: bytes, theirs: bytes, prefer: Side) -> Merged:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ravi-merge-") as folder:
        names = ("ours", "base", "theirs")
        for name, side in zip(names, (ours, base, theirs), strict=True):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(side)
        is_log = "/log/" in path  # a file that only grows: what both added stays
        for how in ("--union",) if is_log else ("", f"--{prefer}"):
            done = call(["merge-file", "-p", "-q", *([how] if how else []), *names], folder)
            if done.code == 0:
                return Merged(done.out, ("body",) if how and not is_log else ())
            if done.code > 127:  # not text
                return Merged(ours if prefer == "ours" else theirs, ("body",))
    raise Unavailable(f"{path}: git merge-file: {done.err.decode('utf-8', 'replace').strip() or done.code}")


def _line_end(data: bytes) -> bytes:
    lines = data.count(b"\n")
    return b"\r\n" if lines and data.count(b"\r\n") == lines else b"\n"


def _entry(objects: Objects, tree: str | None, path: str) -> TreeEntry | None:
    return None if tree is None else objects.entry(tree, path)


def _moves(objects: Objects, differences: Iterable[Difference], ours: str | None) -> dict[str, str]:
    """New path by old path's content: files that they moved, as far as we changed them meanwhile."""
    came: dict[object, list[str]] = {}
    left: list[tuple[str, TreeEntry]] = []
    for path, old, new in differences:
        if old is None and new is not None and new.is_file and _entry(objects, ours, path) is None:
            came.setdefault(new.oid, []).append(path)
            if path.endswith("/TASK.md") and (name := _id(objects, path, new)):
                came.setdefault(("id", name), []).append(path)
        elif new is None and old is not None and old.is_file and _entry(objects, ours, path) not in (None, old):
            left.append((path, old))
    found: dict[str, str] = {}
    for path, old in left:
        keys: list[object] = [old.oid]
        if path.endswith("/TASK.md"):
            keys.append(("id", _id(objects, path, old)))
        for key in keys:
            free = [new for new in came.get(key, ()) if new not in found and _name(new) == _name(path)]
            if free:
                found[free[0]] = path
                break
    return found


def _folders(objects: Objects, differences: Iterable[Difference]) -> list[tuple[str, str]]:
    """Old and new folder of each task that they moved, the innermost first."""
    tasks = [one for one in differences if one.path.endswith("/TASK.md") and (one.old is None or one.new is None)]
    gone = [(path, old) for path, old, _ in tasks if old is not None and old.is_file]
    came = [(path, new) for path, _, new in tasks if new is not None and new.is_file]
    if not gone or not came:
        return []
    left = {_id(objects, path, entry): path for path, entry in gone}
    places = [(left.get(_id(objects, path, entry) or "?"), path) for path, entry in came]
    return sorted(((old[:-8], new[:-8]) for old, new in places if old), key=lambda pair: -len(pair[0]))


def _left_behind(objects: Objects, base: str | None, ours: str | None, folder: str) -> list[tuple[str, TreeEntry]]:
    """What we have below the folder that a task left: new to them, or what belongs to the task, wherever it is.

    A run can end between `git mv` and `git commit`, and be written out to the old folder.
    """
    was, mine = _entry(objects, base, folder), _entry(objects, ours, folder)
    if mine is None or not mine.is_folder:
        return []
    start = was.oid if was is not None and was.is_folder else None
    found = {path: new for path, old, new in objects.diff(start, mine.oid, folder) if new and old is None}
    for name in ("comments", "outputs", "runs"):
        below = _entry(objects, ours, f"{folder}/{name}")
        if below is not None and below.is_folder:
            found |= dict(objects.walk(below.oid, f"{folder}/{name}"))
    return list(found.items())


def _id(objects: Objects, path: str, entry: TreeEntry) -> str:
    try:
        return str(document.parse(objects.blob(entry.oid), path).front.get("id") or "")
    except Malformed:
        return ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _fitting(
    objects: Objects, ours: str | None, changes: dict[str, Change], conflicts: list[tuple[str, str]], prefer: Side
) -> MergedTrees:
    """The same changes, without a file and a folder at one path."""
    for path in [path for path, change in changes.items() if change is not None]:
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        mine = [
            name
            for name in above
            if (entry := _entry(objects, ours, name)) and not entry.is_folder and _stays(name, changes)
        ]
        there = _entry(objects, ours, path)
        if there and there.is_folder:
            mine += [name for name, _ in objects.walk(there.oid, path) if _stays(name, changes)]
        if not mine:
            continue
        conflicts += [(name, "replaced") for name in mine]
        if prefer == "ours":
            del changes[path]
        else:
            changes.update(dict.fromkeys(mine))
    return MergedTrees(changes, tuple(conflicts))


def _stays(path: str, changes: Mapping[str, Change]) -> bool:
    return path not in changes or changes[path] is not None
