"""A view read from the index: one transaction that stands still, and the runs that were live when it was opened."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ravi.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ravi.core.agent import Agent
    from ravi.core.comment import Comment
    from ravi.core.run import Run
    from ravi.core.task import Task
    from ravi.store.index import File, Index

# Spelled here because a list must not import the nouns.
OPEN, RUNNING, WAITING, DONE, FAILED = "open", "running", "waiting", "done", "failed"
CLOSED = ("done", "failed", "cancelled")
SHOWN = ("draft", OPEN, "blocked", "review", *CLOSED, RUNNING, WAITING)  # the statuses a task is listed with
DEPENDS, WAITS = 0, 1  # kinds of edges

TASK_KEYS = (
    "id", "title", "status", "assignee", "parent", "depends_on", "priority", "labels", "path", "created", "updated",
    "summary", "progress", "runs", "problem", "blocker", "waiting_on", "due", "report_to",
)  # fmt: skip
RUN_KEYS = (
    "id", "task", "agent", "attempt", "status", "started", "ended", "branch", "base", "merge", "exit", "summary",
    "usage", "reason", "retry_at", "refused", "worker",
)  # fmt: skip
_COLUMNS = frozenset(
    ("id", "title", "status", "assignee", "parent", "priority", "path", "created", "updated", "due", "problem")
)


def task_json(task: "Task", status: str, runs: Sequence[str]) -> dict[str, Any]:
    """A task as every face shows it; `status` is the derived one, `runs` are ids."""
    derived = {"status": status, "runs": list(runs)}
    return {key: derived[key] if key in derived else _plain(getattr(task, key)) for key in TASK_KEYS}


def run_json(run: "Run") -> dict[str, Any]:
    """A run as every face shows it."""
    return {key: _plain(getattr(run, key)) for key in RUN_KEYS}


class IndexView:
    """`core.view.View`, and the lists that people ask for. Not to be used by two threads at once; close it."""

    def __init__(
        self,
        index: "Index",
        db: sqlite3.Connection,
        file: "File | None",
        commit: str,
        tree: str,
        live: "Mapping[str, Run]",
        now: str,
    ) -> None:
        self.commit = commit
        self._index = index
        self._db: sqlite3.Connection | None = db
        self._file = file
        self._tree = tree
        self._now = now
        self._live = {id: run for id, run in live.items() if not self._came_back(id)} if live else {}

    def close(self) -> None:
        """Let the index move on without us."""
        if self._db is not None:
            self._index.give_back(self._db, self._file)
            self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def taken(self) -> sqlite3.Connection:
        """The connection; whoever takes it gives it back."""
        db, self._db = self._db, None
        assert db is not None
        return db

    # -- core.view.View

    def task(self, id: str) -> "Task | None":
        found = self._tasks("AND t.id = ?", (id,))
        return found[0] if found else None

    def children(self, id: str) -> "tuple[Task, ...]":
        return self._tasks("AND t.parent = ? AND t.parent != '' ORDER BY t.id", (id,))

    def dependents(self, id: str) -> "tuple[Task, ...]":
        return self._tasks("AND t.key IN (SELECT key FROM edges WHERE target = ?) ORDER BY t.id", (id,))

    def assigned(self, agent: str) -> "tuple[Task, ...]":
        return self._tasks(
            "AND t.assignee = ? AND t.assignee != '' AND t.closed = 0 AND t.status = 'open' ORDER BY t.id", (agent,)
        )

    def tasks(self) -> "tuple[Task, ...]":
        """Every task, by id."""
        return self._tasks("ORDER BY t.id", ())

    def agent(self, name: str) -> "Agent | None":
        return next(iter(self._agents("WHERE name = ?", (name,))), None)

    def agents(self) -> "tuple[Agent, ...]":
        """Every agent, by name."""
        return self._agents("ORDER BY name", ())

    def runs(self, task: str) -> "tuple[Run, ...]":
        ended = self._runs("AND t.id = ?", (task,))
        live = [run for run in self._live.values() if run.task == task]
        return tuple(sorted((*ended, *live), key=lambda run: (run.number, run.id)))

    def run(self, id: str) -> "Run | None":
        """A run by its id."""
        found = self._runs("AND r.id = ?", (id,))
        return found[0] if found else self._live.get(id)

    def all_runs(self, *, task: str = "", agent: str = "", status: str = "", limit: int | None = None) -> "list[Run]":
        """Runs of all tasks, newest first; only those of a task, of an agent, with one of the statuses `a,b`."""
        told = (("task", task), ("agent", agent), ("status", status))
        wanted = {name: [word.strip() for word in text.split(",")] for name, text in told if text}
        live = [run for run in self._live.values() if all(getattr(run, k) in words for k, words in wanted.items())]
        clause = (
            "".join(
                f" AND {'t.id' if name == 'task' else f'r.{name}'} IN ({', '.join('?' * len(words))})"
                for name, words in wanted.items()
            )
            + " ORDER BY r.started DESC, r.id"
        )
        if limit is not None:
            clause += f" LIMIT {int(limit)}"
        found = [*live, *self._runs(clause, tuple(word for words in wanted.values() for word in words))]
        found.sort(key=lambda run: run.id)
        found.sort(key=lambda run: run.started, reverse=True)
        return found if limit is None else found[:limit]

    def last_number(self, task: str) -> int:
        rows = self._rows(
            "SELECT run FROM commits WHERE run > ? AND run < ? UNION SELECT id FROM runs WHERE id > ? AND id < ?",
            (f"{task}.", f"{task}/") * 2,
        )
        numbers = (id[len(task) + 1 :] for id in (*(row[0] for row in rows), *self._live) if id.startswith(f"{task}."))
        return max((int(number) for number in numbers if number.isascii() and number.isdigit()), default=0)

    def live_runs(self) -> "tuple[Run, ...]":
        return tuple(run for _, run in sorted(self._live.items()) if run.is_live)

    def has(self, path: str) -> bool:
        return bool(self._tree) and self._index.objects.entry(self._tree, path) is not None

    def seen(self, event: str) -> bool:
        return bool(self._rows("SELECT 1 FROM commits WHERE event = ?", (event,)))

    # -- more of the same

    def event_commit(self, event: str) -> str | None:
        """The commit of the main line that records an event, the oldest if there are two."""
        rows = self._rows("SELECT oid FROM commits WHERE event = ? ORDER BY made, oid LIMIT 1", (event,))
        return rows[0][0].hex() if rows else None

    def comments(self, task: str) -> "tuple[Comment, ...]":
        """What was said about a task, oldest first."""
        rows = self._rows(
            "SELECT c.author, c.created, c.body, c.path, c.kind FROM tasks t JOIN comments c"
            " ON c.folder || '/TASK.md' = t.path AND c.folder = substr(t.path, 1, length(t.path) - 8)"
            " WHERE t.id = ? AND t.owner ORDER BY c.created, c.path",
            (task,),
        )
        if not rows:
            return ()
        from ravi.core.comment import Comment

        return tuple(Comment(task, *row) for row in rows)

    def status_of(self, task: "Task") -> str:
        """The status that lists show: `running` and `waiting` are derived, the rest is as written."""
        if any(run.is_live and run.task == task.id for run in self._live.values()):
            return RUNNING
        if task.status != OPEN:
            return task.status
        status: dict[str, str] = {}
        if targets := dict.fromkeys((*task.depends_on, *task.waiting_on)):
            sql = f"SELECT id, status FROM tasks WHERE owner AND id IN ({_marks(targets)})"  # noqa: S608 - only `?`
            status.update((row[0], row[1]) for row in self._rows(sql, tuple(targets)))
        for kind, ids in ((DEPENDS, task.depends_on), (WAITS, task.waiting_on)):
            if any(holds_up(kind, status.get(id), task.on_upstream_failure) for id in ids):
                return WAITING
        rows = self._rows("SELECT retry_at FROM tasks WHERE id = ? AND owner", (task.id,))
        return WAITING if rows and rows[0][0] > self._now else OPEN

    def problems(self) -> list[dict[str, Any]]:
        """What is wrong in documents and between them, by path: path, line, key, message, severity."""
        keys = ("path", "line", "key", "message", "severity")
        rows = self._rows("SELECT path, line, key, message, severity FROM problems ORDER BY path, line, key", ())
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def resolve(self, text: str, noun: str = "task") -> str:
        """The one id (of a task, run or agent) that begins with `text`. Raises NotFound, or UsageError for several."""
        table = {"task": "tasks", "run": "runs", "agent": "agents"}[noun]
        column = "name" if noun == "agent" else "id"
        if self._rows(f"SELECT 1 FROM {table} WHERE {column} = ?", (text,)):  # noqa: S608 - two fixed words
            return text
        span = f"SELECT DISTINCT {column} FROM {table} WHERE {column} >= ? AND {column} < ? ORDER BY 1"  # noqa: S608
        found = {row[0] for row in self._rows(f"{span} LIMIT 6", (text, f"{text}\U0010ffff"))} if text else set()
        if noun == "run":
            found |= {id for id in self._live if text and id.startswith(text)}
        if len(found) == 1 or text in found:
            return text if text in found else str(found.pop())
        if found:
            shown = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
            raise UsageError(f"`{text}` is the beginning of more than one {noun}: {shown}", hint="write more of it")
        for start in (text[:3], text[:1]):  # comparing with every id of a large workspace would take a second
            near = [row[0] for row in self._rows(f"{span} LIMIT 2000", (start, f"{start}\U0010ffff"))]
            if hint := _meant(text, near):
                break
        raise NotFound(f"no {noun} `{text}` in this workspace", hint=hint)

    # -- lists

    def list_tasks(
        self,
        *,
        all: bool = False,
        status: str | None = None,
        assignee: str | None = None,
        label: str | None = None,
        parent: str | None = None,
        text: str | None = None,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        live: Iterable[str] = (),
    ) -> list[dict[str, Any]]:
        """Tasks as JSON objects, higher priority first, then older first; closed ones only with `all`, or by `status`.

        `text` finds beginnings of words in title and body. `fields` names the keys that are wanted: without the
        lists among them it is several times faster. `live` adds ids of runs that have a ref.
        """
        wanted = _Wanted(all, status, assignee, label, parent, text, limit)
        if fields is not None and _COLUMNS.issuperset(fields):
            rows = self._listed(", ".join(name if name == "status" else f"t.{name}" for name in fields), wanted, live)
            return [dict(zip(fields, row, strict=False)) for row in rows]  # strict costs half as much again
        tasks: list[dict[str, Any]] = json.loads(self._cards(wanted, live))
        return tasks if fields is None else [{name: task[name] for name in fields} for task in tasks]

    def tasks_json(
        self,
        *,
        all: bool = False,
        status: str | None = None,
        assignee: str | None = None,
        label: str | None = None,
        parent: str | None = None,
        text: str | None = None,
        limit: int | None = None,
        live: Iterable[str] = (),
    ) -> str:
        """What `list_tasks` gives, as the text of one JSON array, which is cheaper than making objects of it."""
        return self._cards(_Wanted(all, status, assignee, label, parent, text, limit), live)

    def _cards(self, wanted: "_Wanted", live: Iterable[str]) -> str:
        live = {*live}
        rows = self._listed("c.card, status, t.state, t.id", wanted, live)
        cards = [row[0] if row[1] == row[2] else self._recarded(row[0], row[1], row[3], live) for row in rows]
        return f"[{','.join(cards)}]"

    def _recarded(self, card: str, shown: str, id: str, live: Iterable[str]) -> str:
        """A card of a task whose status follows from more than documents."""
        task = json.loads(card)
        task["status"] = shown
        task["runs"] += sorted(run for run in {*live, *self._live} if run.rpartition(".")[0] == id)
        return to_json(task)

    def _listed(self, columns: str, wanted: "_Wanted", live: Iterable[str]) -> list[tuple[Any, ...]]:
        """Rows of the tasks that are wanted. `status` among the columns is the one they are shown with."""
        running = {run.rpartition(".")[0] for run in live if not self._came_back(run)}
        running |= {run.task for run in self._live.values() if run.is_live}
        shown = "CASE WHEN t.state = 'open' AND t.retry_at > ? THEN 'waiting' ELSE t.state END"
        args: list[str | int] = [self._now]
        if running:
            shown = f"CASE WHEN t.owner AND t.id IN ({_marks(running)}) THEN 'running' ELSE {shown} END"
            args = [*running, self._now]
        clause, more = wanted.clause(shown, args)
        join = " JOIN cards c USING (key)" if columns.startswith("c.") else ""
        columns = columns.replace("status", shown)
        return self._rows(
            f"SELECT {columns} FROM tasks t{join} WHERE {clause} ORDER BY t.priority DESC, t.created, t.id LIMIT ?",  # noqa: S608 - parts of our own
            [*(args if shown in columns else ()), *more, -1 if wanted.limit is None else max(0, wanted.limit)],
        )

    # -- steps

    def _tasks(self, clause: str, args: Sequence[str]) -> "tuple[Task, ...]":
        from ravi.core.task import Task

        sql = f"SELECT t.path, t.problem, x.body, x.front FROM tasks t JOIN texts x USING (key) WHERE t.owner {clause}"  # noqa: S608 - parts of our own
        return tuple(
            Task(**decode(front), path=path, body=body, problem=problem)
            for path, problem, body, front in self._rows(sql, args)
        )

    def _agents(self, clause: str, args: Sequence[str]) -> "tuple[Agent, ...]":
        from ravi.core.agent import Agent

        rows = self._rows(f"SELECT front, body FROM agents {clause}", args)  # noqa: S608 - parts of our own
        return tuple(Agent(**decode(front), instructions=body) for front, body in rows)

    def _runs(self, clause: str, args: Sequence[str]) -> "tuple[Run, ...]":
        """Runs of the main line. One in the folder of another task (a copied folder) is not that task's run."""
        rows = self._rows(
            "SELECT r.path, r.front, r.body,"  # noqa: S608 - parts of our own
            " (SELECT c.oid FROM commits c WHERE c.run = r.id AND c.merge ORDER BY c.made, c.oid LIMIT 1)"
            " FROM runs r JOIN tasks t"
            " ON t.path = r.folder || '/TASK.md' AND r.folder = substr(t.path, 1, length(t.path) - 8)"
            f" WHERE t.owner AND t.id = r.task {clause}",
            args,
        )
        if not rows:
            return ()
        from ravi.core.run import Run

        return tuple(
            Run(**decode(front), path=path, text=body, merge=merge.hex() if merge else "")
            for path, front, body, merge in rows
        )

    def _came_back(self, run: str) -> bool:
        return bool(self._rows(CAME_BACK, (run, run)))

    def _rows(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
        assert self._db is not None, "this view is closed"
        try:
            return self._db.execute(sql, args).fetchall()
        except sqlite3.Error as fault:
            self._db = self._index.again(self._db, self.commit, fault)
            return self._db.execute(sql, args).fetchall()


# A run is not live any more when its end lies on the main line, or when it was merged, though it was reverted since.
CAME_BACK = (
    "SELECT 1 FROM runs WHERE id = ? AND status != 'running' UNION ALL SELECT 1 FROM commits WHERE run = ? AND merge"
)


class _Wanted(NamedTuple):
    """Which tasks a list shall have."""

    all: bool
    status: str | None
    assignee: str | None
    label: str | None
    parent: str | None
    text: str | None
    limit: int | None

    def clause(self, shown: str, its_args: Sequence[str | int]) -> tuple[str, list[str | int]]:
        """As SQL, with its arguments; `shown` is the SQL of the status that a task is shown with."""
        statuses = [] if self.status is None else [word.strip() for word in self.status.split(",")]
        is_whole = self.all or not {*CLOSED, RUNNING}.isdisjoint(statuses)
        parts, args = ["1" if is_whole else "t.closed = 0"], list[str | int]()
        if statuses:
            parts.append(f"{shown} IN ({_marks(statuses)})")
            args += (*its_args, *statuses)
        if self.assignee is not None:
            parts.append("t.assignee = ?" + (" AND t.assignee != ''" if self.assignee else ""))
            args.append(self.assignee)
        if self.parent is not None:
            parts.append("t.parent = ?" + (" AND t.parent != ''" if self.parent else ""))
            args.append(self.parent)
        if self.label is not None:
            parts.append("instr(t.labels, ?)")
            args.append(f"\n{self.label}\n")
        if self.text and not self.text.isspace():
            words = [word.replace('"', '""') for word in self.text.split() if any(map(str.isalnum, word))]
            parts.append("t.key IN (SELECT rowid FROM words WHERE words MATCH ?)" if words else "0")
            args += [" ".join(f'"{word}"*' for word in words)] if words else []
        return " AND ".join(parts), args


def holds_up(kind: int, status: str | None, on_upstream_failure: str) -> bool:
    """True while a task has to wait for another one of this status (None: there is no such task)."""
    if kind == DEPENDS:
        return status != DONE and not (on_upstream_failure == "run" and status in CLOSED)
    return status not in CLOSED


# One encoder for all: making one costs as much as using it.
to_json = json.JSONEncoder(ensure_ascii=False, default=dict).encode


def encode(noun: Any, skip: Collection[str]) -> str:
    """The fields of a noun that are not at their defaults, as JSON."""
    told = {}
    for name, default in _defaults(noun.__class__).items():
        value = getattr(noun, name)
        if name not in skip and value != default:
            told[name] = value
    return to_json(told)


def decode(text: str) -> dict[str, Any]:
    """What `encode` was given. Lists are tuples in nouns, but not deeper, where they are as a document had them."""
    told: dict[str, Any] = json.loads(text)
    for name, value in told.items():
        if isinstance(value, list):
            told[name] = tuple(value)
    if "links" in told:
        told["links"] = {name: tuple(ids) for name, ids in told["links"].items()}
    return told


@cache
def _defaults(noun: Any) -> dict[str, Any]:
    from dataclasses import MISSING, fields

    made = {f.name: f.default_factory() for f in fields(noun) if f.default_factory is not MISSING}
    return {f.name: made.get(f.name, f.default) for f in fields(noun)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _marks(values: Collection[Any]) -> str:
    return ",".join("?" * len(values))


def _meant(text: str, near: Sequence[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(text, near, 2, 0.6)
    return f"did you mean {' or '.join(f'`{id}`' for id in found)}?" if found else ""
