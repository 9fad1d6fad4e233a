"""How the index moves from one commit to another: only what differs is read, in one transaction of the caller.

First the documents that changed become rows; then everything that follows from more than one document (who owns an id,
what waits for what, circles) is worked out again, for those tasks only that the change can reach.
"""

import gc
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ravi.core import document, places
from ravi.core.field import nearest
from ravi.core.ids import is_valid
from ravi.core.places import Place, Problem
from ravi.core.task import DRAFT, Task
from ravi.errors import Malformed, NotFound
from ravi.store import ledger
from ravi.store.index_tables import INDEXES
from ravi.store.index_view import DEPENDS, FAILED, OPEN, WAITING, WAITS, encode, holds_up, task_json, to_json
from ravi.store.objects import Difference, Objects

if TYPE_CHECKING:
    from ravi.core.agent import Agent
    from ravi.core.run import Run

_CHUNK = 512
_MANY = 2000  # from so many tasks on, whole tables are read at once instead of row by row
_GUESS = {key: re.compile(rb"^%b:[ \t]*[\"']?([^\"'\r\n#]+)" % key.encode(), re.MULTILINE) for key in ("id", "title")}


def update(db: sqlite3.Connection, objects: Objects, commit: str) -> None:
    """Move the index to `commit`, from wherever it stands. Nothing is done when it stands there already."""
    at, old_tree = db.execute("SELECT at, tree FROM state").fetchone()
    if at == commit:
        return
    new_tree = objects.commit(commit).tree
    if at:
        try:
            with _savepoint(db):
                _Update(db, objects, commit).run(old_tree, new_tree)
        except NotFound:  # the commit it stood at was pruned, with trees that only it had
            at = ""
    if not at:
        for table in ("tasks", "cards", "texts", "edges", "runs", "comments", "agents", "contacts", "problems"):
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - fixed words
        with _no_collector():
            _Update(db, objects, commit, is_fresh=True).run(None, new_tree)
    ledger.advance(db, objects, at, commit)
    db.execute("UPDATE state SET at = ?, tree = ?", (commit, new_tree))


class _Row(NamedTuple):
    """What a task's row says, as far as other rows can change it."""

    key: int
    path: str
    id: str
    owner: int
    status: str
    state: str
    closed: int
    assignee: str
    parent: str
    upstream: str
    fault: str
    problem: str
    runs: str
    retry_at: str


_ROW = f"SELECT {', '.join(_Row._fields)} FROM tasks"  # noqa: S608 - our own names


class _Update:
    def __init__(self, db: sqlite3.Connection, objects: Objects, commit: str, *, is_fresh: bool = False) -> None:
        self._db = db
        self._objects = objects
        self._commit = commit
        self._is_fresh = is_fresh
        self._keys: set[int] = set()  # of tasks whose row was written
        self._rewired: set[int] = set()  # those of them that name other tasks than before
        self._came: set[str] = set()  # ids that a file got or lost
        self._moved: set[str] = set()  # ids of tasks whose status changed
        self._folders: set[str] = set()  # of tasks whose runs changed
        self._names: set[str] = set()  # of agents and contacts that came or went

    def run(self, old_tree: str | None, new_tree: str) -> None:
        """Make the documents of `new_tree` of those of `old_tree`."""
        indexes = INDEXES.strip().rstrip(";").split(";\n") if self._is_fresh else []
        for index in indexes:
            self._db.execute(f"DROP INDEX {index.split()[2]}")
        differences = self._differences(old_tree, new_tree)
        while chunk := list(islice(differences, _CHUNK)):
            self._take(chunk)
        for index in indexes:
            self._db.execute(index)
        self._settle_owners()
        if self._is_fresh:
            self._db.execute("INSERT INTO words (words) VALUES ('rebuild')")
        self._derive()

    # -- documents to rows

    def _differences(self, old_tree: str | None, new_tree: str) -> Iterator[Difference]:
        for name in places.FOLDERS:
            trees = []
            for tree in (old_tree, new_tree):
                entry = self._objects.entry(tree, name) if tree else None
                trees.append(entry.oid if entry is not None and entry.is_folder else None)
            yield from self._objects.diff(trees[0], trees[1], name)

    def _take(self, chunk: Sequence[Difference]) -> None:
        to_read: list[tuple[str, Place, str]] = []
        for path, _, new in chunk:
            place = places.place_of(path)
            if place is None:
                continue
            if not _is_text(path):
                shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                self._db.execute("DELETE FROM problems WHERE path = ?", (shown,))
                if new is not None:
                    self._tell(Problem(shown, "its path is not UTF-8"))
            elif new is None:
                self._remove(path, place)
            elif not new.is_file:
                self._remove(path, place)
                self._tell(Problem(path, "is not a file; ravi follows no links"))
            else:
                to_read.append((path, place, new.oid))
        blobs = self._objects.blobs([oid for _, _, oid in to_read])
        for (path, place, _), (_, data) in zip(to_read, blobs, strict=True):
            self._put(path, place, data)

    def _put(self, path: str, place: Place, data: bytes) -> None:
        if not self._is_fresh:
            self._db.execute("DELETE FROM problems WHERE path = ? AND scope = 0", (path,))
        if place.kind == places.CONTACT:
            if self._db.execute("INSERT OR IGNORE INTO contacts VALUES (?)", (place.name,)).rowcount:
                self._names.add(place.name)
            return
        noun = places.read(path, place, data)
        if isinstance(noun, Problem):
            self._tell(noun)
        try:
            self._put_noun(path, place, data, noun)
        except UnicodeEncodeError:  # half of a character, spelled with an escape
            self._remove(path, place)
            self._tell(Problem(path, "holds text that is not Unicode"))

    def _put_noun(self, path: str, place: Place, data: bytes, noun: Any) -> None:
        """Write the row of what `places.read` made of a file: a Problem, or the noun that its place is for."""
        if isinstance(noun, Problem):
            self._put_unread(path, place, data, noun)
            return
        match place.kind:
            case places.TASK:
                self._put_task(noun, "")
            case places.RUN:
                self._put_run(noun, place)
            case places.AGENT:
                self._put_agent(noun)
            case places.COMMENT:
                row = (path, place.folder, noun.author, noun.created, noun.kind, noun.text)
                self._db.execute("INSERT OR REPLACE INTO comments VALUES (?, ?, ?, ?, ?, ?)", row)

    def _put_unread(self, path: str, place: Place, data: bytes, problem: Problem) -> None:
        """A file that cannot be read stays in lists, with what can be known of it, and with its problem."""
        from ravi.core.agent import Agent
        from ravi.core.schema import lenient_task

        said = problem.message if not problem.key else f"{problem.key}: {problem.message}"
        if place.kind == places.AGENT:
            self._put_agent(Agent(place.name, path=path, problem=said))
        elif place.kind != places.TASK:
            self._remove(path, place)
        else:
            try:
                task = lenient_task(path, document.parse(data, path))
                is_guessed = False
            except Malformed:
                task = self._guessed(path, data)
                is_guessed = True
            self._put_task(task, said, is_guessed=is_guessed)

    def _guessed(self, path: str, data: bytes) -> Task:
        """A draft in the name of a file that cannot be read: by what its lines look like, else by what it was."""
        found = {
            key: match[1].decode("utf-8", "replace").strip()
            for key, r in _GUESS.items()
            if (match := r.search(data, 0, 4096))
        }
        folder = path.rpartition("/")[0].rpartition("/")[2]
        was = self._db.execute("SELECT id, title FROM tasks WHERE path = ?", (path,)).fetchone() or ("", "")
        id = next((word for word in (found.get("id", ""), was[0], folder) if is_valid(word)), "")
        return Task(id, found.get("title") or was[1] or folder, status=DRAFT, path=path)

    def _put_task(self, task: Task, fault: str, *, is_guessed: bool = False) -> None:
        db = self._db
        card = to_json(task_json(task, task.status, ()) | {"problem": fault})
        front = encode(task, ("path", "body", "problem"))
        f"{card}{front}{task.body}".encode()  # raises for half a character, before anything is written
        values = (
            task.id, is_guessed, task.status, task.status, task.is_closed, task.priority, task.created, task.updated,
            task.due, task.title, task.assignee, task.parent, "".join(f"\n{label}\n" for label in task.labels),
            task.on_upstream_failure, fault, fault,
        )  # fmt: skip
        edges = {(DEPENDS, id) for id in task.depends_on} | {(WAITS, id) for id in task.waiting_on}
        was = None
        if not self._is_fresh:
            was = db.execute("SELECT key, id, owner, status, parent FROM tasks WHERE path = ?", (task.path,)).fetchone()
        if was is None:
            key = db.execute(_INSERT_TASK, (task.path, *values)).lastrowid
            assert key is not None
            db.execute("INSERT INTO cards VALUES (?, ?)", (key, card))
            db.execute("INSERT INTO texts VALUES (?, ?, ?, ?)", (key, task.title, task.body, front))
            if not self._is_fresh:
                db.execute("INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)", (key, task.title, task.body))
                self._keys.add(key)
                self._came.add(task.id)
                self._rewired.add(key)
            had: set[tuple[int, str]] = set()
        else:
            key, id, owner, status, parent = was
            db.execute(_UPDATE_TASK, (*values, owner if id == task.id else 0, key))
            db.execute("UPDATE cards SET card = ? WHERE key = ?", (card, key))
            self._reword(key, task.title, task.body)
            db.execute(
                "UPDATE texts SET title = ?, body = ?, front = ? WHERE key = ?", (task.title, task.body, front, key)
            )
            had = set(db.execute("SELECT kind, target FROM edges WHERE key = ?", (key,)))
            if id != task.id:
                self._came |= {id, task.id}
            if status != task.status:
                self._moved.add(id)
            if id != task.id or parent != task.parent or had != edges:
                self._rewired.add(key)
            self._keys.add(key)
        if had != edges:
            db.execute("DELETE FROM edges WHERE key = ?", (key,))
            db.executemany("INSERT INTO edges VALUES (?, ?, ?)", [(key, *edge) for edge in edges])

    def _reword(self, key: int, title: str, body: str) -> None:
        """Words are found in the text they were taken from, so the old text is needed to take them out."""
        old = self._db.execute("SELECT title, body FROM texts WHERE key = ?", (key,)).fetchone()
        if old != (title, body):
            delete = "INSERT INTO words (words, rowid, title, body) VALUES ('delete', ?, ?, ?)"
            self._db.execute(delete, (key, *old))
            self._db.execute("INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)", (key, title, body))

    def _put_run(self, run: "Run", place: Place) -> None:
        self._folders.add(place.folder)
        self._db.execute(
            "INSERT OR REPLACE INTO runs"
            " (path, folder, id, task, number, agent, status, started, retry_at, front, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.path, place.folder, run.id, run.task, int(place.name), run.agent, run.status, run.started,
                run.retry_at if run.status == FAILED else "", encode(run, ("path", "text", "merge")), run.text,
            ),
        )  # fmt: skip

    def _put_agent(self, agent: "Agent") -> None:
        if self._db.execute("SELECT 1 FROM agents WHERE name = ?", (agent.name,)).fetchone() is None:
            self._names.add(agent.name)
        row = (agent.name, encode(agent, ("instructions",)), agent.instructions)
        self._db.execute("INSERT OR REPLACE INTO agents VALUES (?, ?, ?)", row)

    def _remove(self, path: str, place: Place) -> None:
        db = self._db
        db.execute("DELETE FROM problems WHERE path = ?", (path,))
        match place.kind:
            case places.TASK:
                row = db.execute(
                    "SELECT t.key, t.id, x.title, x.body FROM tasks t JOIN texts x USING (key) WHERE path = ?", (path,)
                ).fetchone()
                if row is None:
                    return
                key, id, title, body = row
                db.execute(
                    "INSERT INTO words (words, rowid, title, body) VALUES ('delete', ?, ?, ?)", (key, title, body)
                )
                for table in ("tasks", "cards", "texts", "edges"):
                    db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - fixed words
                self._came.add(id)
                self._keys.discard(key)
            case places.RUN:
                self._folders.add(place.folder)
                db.execute("DELETE FROM runs WHERE path = ?", (path,))
            case places.COMMENT:
                db.execute("DELETE FROM comments WHERE path = ?", (path,))
            case places.AGENT:
                self._names.add(place.name)
                db.execute("DELETE FROM agents WHERE name = ?", (place.name,))
            case places.CONTACT:
                self._names.add(place.name)
                db.execute("DELETE FROM contacts WHERE name = ?", (place.name,))

    def _tell(self, problem: Problem, *, scope: int = 0, severity: str = "error") -> None:
        row = (problem.path, scope, problem.line, problem.key, problem.message, severity)
        self._db.execute("INSERT INTO problems VALUES (?, ?, ?, ?, ?, ?)", row)

    # -- what follows from more than one document

    def _settle_owners(self) -> None:
        """Of files with one id, the one that has it keeps it; else it goes to the one that came first."""
        db = self._db
        self._came.discard("")
        if self._is_fresh:
            db.execute("UPDATE tasks SET owner = 1 WHERE id != ''")
            twice = "SELECT id FROM tasks WHERE id != '' GROUP BY id HAVING count(*) > 1"
            ids = [id for (id,) in db.execute(twice)]
            db.executemany("UPDATE tasks SET owner = 0 WHERE id = ?", [(id,) for id in ids])
        else:
            ids = sorted(self._came)
        for id in ids:
            found = "SELECT key, owner, guessed, path FROM tasks WHERE id = ? ORDER BY guessed, path"
            rows = db.execute(found, (id,)).fetchall()
            self._keys.update(row[0] for row in rows)  # who does not own it says who does
            if rows and not any(row[1] for row in rows):
                paths = [row[3] for row in rows if row[2] == rows[0][2]]
                first = paths[0] if len(paths) == 1 else ledger.first_added(self._objects, self._commit, paths)
                key = next(row[0] for row in rows if row[3] == first)
                db.execute("UPDATE tasks SET owner = 1 WHERE key = ?", (key,))
                self._rewired.add(key)

    def _derive(self) -> None:
        """Work out again what depends on more than one file."""
        if self._is_fresh:
            whole = _Whole(self._db)
            rings = _rings(whole.starts(), whole)
            last = 0
            while rows := self._db.execute(f"{_ROW} WHERE key > ? ORDER BY key LIMIT {_MANY}", (last,)).fetchall():
                last = rows[-1][0]
                for row in map(_Row._make, rows):
                    self._refresh(row, whole, rings)
            return
        near = _Near(self._db)
        # Whoever was in a circle may have been let out of it by another.
        circled = self._keys_of("path IN (SELECT path FROM problems WHERE scope = 2 AND scope)")
        rings = _rings(self._rows({*self._rewired, *circled}), near)
        keys = self._reached() | set(circled)
        keys.update(key for id in rings for key in self._keys_of("id = ? AND owner", id))
        around = _Whole(self._db) if len(keys) > _MANY else near
        for row in self._rows(keys):
            self._refresh(row, around, rings)

    def _reached(self) -> set[int]:
        """The tasks that a change of these files can say something new about."""
        keys = set(self._keys)
        for id in self._came | self._moved:
            keys.update(self._keys_of("key IN (SELECT key FROM edges WHERE target = ?)", id))
        for id in self._came:
            keys.update(self._keys_of("parent = ? AND parent != '' AND closed = 0", id))
        for folder in self._folders:
            keys.update(self._keys_of("path = ?", f"{folder}/TASK.md"))
        for name in self._names:
            keys.update(self._keys_of("assignee = ? AND assignee != '' AND closed = 0", name))
        if self._names:  # who else may have been meant is another question now
            known = "SELECT name FROM agents UNION ALL SELECT name FROM contacts"
            keys.update(self._keys_of(f"assignee NOT IN ({known}) AND assignee != '' AND closed = 0"))
        return keys

    def _keys_of(self, clause: str, *values: str) -> list[int]:
        return [key for (key,) in self._db.execute(f"SELECT key FROM tasks WHERE {clause}", values)]  # noqa: S608 - ours

    def _rows(self, keys: Iterable[int]) -> Iterator[_Row]:
        for key in sorted(keys):
            row = self._db.execute(f"{_ROW} WHERE key = ?", (key,)).fetchone()
            if row is not None:
                yield _Row._make(row)

    def _refresh(self, row: _Row, around: "_Near", rings: "_Rings") -> None:
        """Write what now follows for one task, where it is not what its row says."""
        problems: list[_Told] = []
        state, runs, retry_at = row.status, "[]", ""
        if row.owner:
            ended = [run for run in around.runs(row.path[:-8]) if run[1] == row.id]
            if ended:
                runs, retry_at = to_json([run[0] for run in ended]), ended[-1][2]
            edges = around.edges(row.key)
            if row.status == OPEN and any(holds_up(kind, around.status(id), row.upstream) for kind, id in edges):
                state = WAITING
            if not row.closed:
                problems = list(self._between(row, around, rings.get(row.id, {})))
        else:
            problems = [self._not_owned(row)]
            state = DRAFT
        said = next((f"{one.key}: {one.message}" for one in problems if one.severity == "error"), "")
        problem = row.fault or said
        if not self._is_fresh:
            self._db.execute("DELETE FROM problems WHERE path = ? AND scope", (row.path,))
        for one in problems:
            self._tell(Problem(row.path, one.message, key=one.key), scope=one.scope, severity=one.severity)
        if (state, problem, runs, retry_at) != (row.state, row.problem, row.runs, row.retry_at):
            self._db.execute(
                "UPDATE tasks SET state = ?, problem = ?, runs = ?, retry_at = ? WHERE key = ?",
                (state, problem, runs, retry_at, row.key),
            )
        if not self._is_fresh or (state, problem, runs) != (row.status, row.fault, "[]"):
            self._recard(row.key, {"status": state, "problem": problem, "runs": json.loads(runs)})

    def _recard(self, key: int, derived: Mapping[str, Any]) -> None:
        card = json.loads(self._db.execute("SELECT card FROM cards WHERE key = ?", (key,)).fetchone()[0])
        if any(card[name] != value for name, value in derived.items()):
            text = to_json({**card, **derived})
            self._db.execute("UPDATE cards SET card = ? WHERE key = ?", (text, key))

    def _not_owned(self, row: _Row) -> "_Told":
        if not row.id:
            return _Told("id", "has none yet")
        owner = self._db.execute("SELECT path FROM tasks WHERE id = ? AND owner", (row.id,)).fetchone()
        return _Told("id", f"`{row.id}` belongs to {owner[0]}")

    def _between(self, row: _Row, around: "_Near", ring: Mapping[str, str]) -> "Iterator[_Told]":
        for key, circle in ring.items():
            yield _Told(key, circle, scope=_RING)
        if row.assignee and row.assignee not in around.names() and (meant := nearest(row.assignee, around.agents())):
            # without a near name it is a person who has no file, which is nobody's mistake
            yield _Told("assignee", f"no agent `{row.assignee}` in this workspace; did you mean `{meant}`?")
        if row.parent and around.status(row.parent) is None:
            yield _Told("parent", f"no task `{row.parent}` in this workspace", "warning")
        for kind, id in around.edges(row.key):
            if kind == DEPENDS and around.status(id) is None:
                yield _Told("depends_on", f"no task `{id}` in this workspace", "warning")


class _Told(NamedTuple):
    """Something wrong between documents."""

    key: str
    message: str
    severity: str = "error"
    scope: int = 1


# -- where to look for what surrounds a task


class _Near:
    """Looked up one by one: for the few tasks of a common change."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._status: dict[str, str | None] = {}
        self._agents: list[str] | None = None
        self._names: set[str] | None = None

    def status(self, id: str) -> str | None:
        """The written status of a task; None when there is no such task."""
        if id not in self._status:
            row = self._db.execute("SELECT status FROM tasks WHERE id = ? AND owner", (id,)).fetchone()
            self._status[id] = None if row is None else row[0]
        return self._status[id]

    def edges(self, key: int) -> list[tuple[int, str]]:
        """(kind, id) of what a task names."""
        return self._db.execute("SELECT kind, target FROM edges WHERE key = ?", (key,)).fetchall()

    def runs(self, folder: str) -> list[tuple[str, str, str]]:
        """(id, task, retry_at) of the runs in a task's folder, by number."""
        sql = "SELECT id, task, retry_at FROM runs WHERE folder = ? ORDER BY number"
        return self._db.execute(sql, (folder,)).fetchall()

    def upstream(self, key: str, id: str) -> list[str]:
        """The tasks that a task names in `depends_on` or `parent`."""
        if key == "parent":
            rows = self._db.execute("SELECT parent FROM tasks WHERE id = ? AND owner AND parent != ''", (id,))
        else:
            sql = "SELECT target FROM tasks JOIN edges USING (key) WHERE id = ? AND owner AND kind = 0"
            rows = self._db.execute(sql, (id,))
        return [name for (name,) in rows]

    def downstream(self, key: str, id: str) -> list[str]:
        """The tasks that name it there."""
        if key == "parent":
            rows = self._db.execute("SELECT id FROM tasks WHERE parent = ? AND parent != '' AND owner", (id,))
        else:
            sql = "SELECT id FROM edges JOIN tasks USING (key) WHERE target = ? AND kind = 0 AND owner"
            rows = self._db.execute(sql, (id,))
        return [name for (name,) in rows]

    def agents(self) -> list[str]:
        """The names of all agents."""
        if self._agents is None:
            self._agents = [name for (name,) in self._db.execute("SELECT name FROM agents")]
        return self._agents

    def names(self) -> set[str]:
        """Who a task may be assigned to: agents and contacts."""
        if self._names is None:
            self._names = {*self.agents(), *(name for (name,) in self._db.execute("SELECT name FROM contacts"))}
        return self._names


class _Whole(_Near):
    """Everything at once in memory: for an index made from nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._status = dict(db.execute("SELECT id, status FROM tasks WHERE owner"))
        self._edges: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
        for key, kind, target in db.execute("SELECT key, kind, target FROM edges"):
            self._edges[key].append((kind, target))
        self._runs: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for folder, *run in db.execute("SELECT folder, id, task, retry_at FROM runs ORDER BY number"):
            self._runs[folder].append((run[0], run[1], run[2]))

    def starts(self) -> Iterator[_Row]:
        """The tasks that name others."""
        rows = self._db.execute(f"{_ROW} WHERE owner AND (parent != '' OR key IN (SELECT key FROM edges))")  # noqa: S608 - our own names
        return map(_Row._make, rows)

    def status(self, id: str) -> str | None:
        return self._status.get(id)

    def edges(self, key: int) -> list[tuple[int, str]]:
        return self._edges.get(key, [])

    def runs(self, folder: str) -> list[tuple[str, str, str]]:
        return self._runs.get(folder, [])


# -- circles

_RING = 2  # problems.scope
_SHOWN = 20  # of a larger circle only the size is told: a way for each member would be the square of it
_Rings = Mapping[str, Mapping[str, str]]


def _rings(rows: Iterable[_Row], around: _Near) -> _Rings:
    """For each task in a circle: key -> what to say. Whoever closes a circle has all its members told."""
    ids = [row.id for row in rows if row.owner]
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key in ("parent", "depends_on"):
        for id in _suspects(ids, key, around):
            if key in found.get(id, ()):
                continue
            members = _reach(id, partial(around.upstream, key))
            if id not in members:
                continue
            members &= _reach(id, partial(around.downstream, key))
            for member in members:
                said = f"goes in a circle of {len(members)} tasks"
                if len(members) <= _SHOWN:
                    said = (
                        f"goes in a circle: {' -> '.join(_way_round(member, members, partial(around.upstream, key)))}"
                    )
                found[member][key] = said
    return found


def _suspects(ids: Sequence[str], key: str, around: _Near) -> list[str]:
    """Those that may lie in a circle. In a whole workspace what leads nowhere is left out first, again and again."""
    if len(ids) <= _MANY:
        return list(ids)
    arrows = {id: targets for id in ids if (targets := set(around.upstream(key, id)))}
    into: defaultdict[str, list[str]] = defaultdict(list)
    for id, targets in arrows.items():
        for target in targets:
            into[target].append(id)
    ends = [id for id in into if id not in arrows]
    while ends:
        end = ends.pop()
        for id in into.pop(end, ()):
            arrows[id].discard(end)
            if not arrows[id]:
                del arrows[id]
                ends.append(id)
    return sorted(arrows)


def _reach(start: str, arrows: Callable[[str], Iterable[str]]) -> set[str]:
    """All that can be reached from `start`; `start` itself only when a way leads back to it."""
    reached: set[str] = set()
    todo = [start]
    while todo:
        for target in arrows(todo.pop()):
            if target not in reached:
                reached.add(target)
                todo.append(target)
    return reached


def _way_round(start: str, members: set[str], arrows: Callable[[str], Iterable[str]]) -> list[str]:
    """A shortest way from `start` back to itself."""
    before: dict[str, str] = {}
    todo = [start]
    for here in todo:
        for target in sorted(arrows(here)):
            if target == start:
                way = [start, here]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return way[::-1] if here != start else [start, start]
            if target in members and target not in before:
                before[target] = here
                todo.append(target)
    raise AssertionError(f"{start} is in no circle")


_INSERT_TASK = (
    "INSERT INTO tasks (path, id, guessed, status, state, closed, priority, created, updated, due, title, assignee,"
    " parent, labels, upstream, fault, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE_TASK = (
    "UPDATE tasks SET id = ?, guessed = ?, status = ?, state = ?, closed = ?, priority = ?, created = ?, updated = ?,"
    " due = ?, title = ?, assignee = ?, parent = ?, labels = ?, upstream = ?, fault = ?, problem = ?, owner = ?"
    " WHERE key = ?"
)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _savepoint(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("SAVEPOINT documents")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK TO documents")
        raise
    finally:
        db.execute("RELEASE documents")


@contextmanager
def _no_collector() -> Iterator[None]:
    """Many small values that live on, and none in a circle: looking for garbage among them is a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
