"""The ledger: which commit of the main line records which event, and which merge brought back which run.

The table `commits` holds every commit that can be reached from the one the index stands at. So a commit that is in it
ends a walk, and what a new commit adds is found exactly, whatever way it was merged in.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from ravi.core import trailers
from ravi.errors import NotFound, Unavailable
from ravi.store.objects import Commit, Objects, parse_commit

_FEW = 256  # commits that are walked without asking git for a list
_CHUNK = 4096


def advance(db: sqlite3.Connection, objects: Objects, old: str, new: str) -> None:
    """Bring the ledger from commit `old` ("" for nothing yet) to `new`."""
    if old:
        found, ends = _walk(db, objects, new)
        if old in ends:  # the common case: `new` descends from `old`, by a few commits
            _add(db, found)
            return
    gone, came = _difference(objects, old, new)
    if gone is None:
        db.execute("DELETE FROM commits")
    else:
        db.executemany("DELETE FROM commits WHERE oid = ?", ((bytes.fromhex(oid),) for oid in gone))
    rest = iter(came)
    while chunk := sorted(islice(rest, _CHUNK)):
        _add(db, _read(objects, chunk))


def _difference(objects: Objects, old: str, new: str) -> tuple[list[str] | None, list[str]]:
    """The commits that only `old` reaches (None when nobody knows), and those that only `new` reaches."""
    if old:
        with contextlib.suppress(Unavailable):  # `old` may have been pruned
            return _listed(objects, [old, f"^{new}"]), _listed(objects, [new, f"^{old}"])
    return None, _listed(objects, [new])


def first_added(objects: Objects, commit: str, paths: list[str]) -> str:
    """Which of these files of `commit` has been there longest, by the first-parent line."""
    from ravi.store.git import run

    log = ["log", "-z", "--first-parent", "--diff-merges=first-parent", "--no-renames", "--diff-filter=A"]
    args = [
        f"--git-dir={objects.common_dir}",
        "--literal-pathspecs",
        *log,
        "--name-only",
        "--format=%x01",
        commit,
        "--",
    ]
    age, ages = 0, dict.fromkeys(paths, 0)
    with contextlib.suppress(Unavailable):
        for word in run([*args, *paths], objects.common_dir).decode("utf-8", "surrogateescape").split("\0"):
            age += "\1" in word
            path = word.strip("\1\n")
            if path in ages and not ages[path]:  # the latest addition counts: it may have been gone for a while
                ages[path] = age
    return min(paths, key=lambda path: (-ages[path], path))


def _walk(db: sqlite3.Connection, objects: Objects, new: str) -> tuple[list[Commit], set[str]]:
    """The commits that `new` adds, and the known ones where the walk ended: none when they are many."""
    found: list[Commit] = []
    seen, ends, todo = {new}, set[str](), [new]
    while todo:
        oid = todo.pop()
        if db.execute("SELECT 1 FROM commits WHERE oid = ?", (bytes.fromhex(oid),)).fetchone():
            ends.add(oid)
            continue
        try:
            commit = objects.commit(oid)
        except NotFound:  # a shallow clone ends here
            continue
        found.append(commit)
        if len(found) > _FEW:
            return [], set()
        for parent in commit.parents:
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)
    return found, ends


def _listed(objects: Objects, revisions: list[str]) -> list[str]:
    from ravi.store.git import run

    args = [f"--git-dir={objects.common_dir}", "rev-list", *revisions]
    return run(args, objects.common_dir).decode("ascii").split()


def _read(objects: Objects, oids: list[str]) -> Iterator[Commit]:
    for oid, (_, data) in zip(oids, objects.many(oids), strict=True):
        yield parse_commit(oid, data)


def _add(db: sqlite3.Connection, commits: Iterable[Commit]) -> None:
    rows = []
    for commit in commits:
        told = trailers.parse(commit.message).trailers if "\nRavi-" in commit.message else {}
        row = (
            commit.committer.when,
            len(commit.parents) > 1,
            _text(told.get("Ravi-Event")),
            _text(told.get("Ravi-Run")),
        )
        rows.append((bytes.fromhex(commit.oid), *row))
    db.executemany("INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?, ?)", rows)


def _text(word: str | None) -> str | None:
    return word.encode("utf-8", "replace").decode() if word else None
