"""What each kind of document may say: JSON Schema for editors, and every mistake in a document with its line."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from ravi.core import agent, document, run, task
from ravi.core.document import Document
from ravi.core.field import Field, Table, nearest
from ravi.core.places import place_of
from ravi.core.task import Task
from ravi.errors import Malformed

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SETTINGS = Table(
    "workspace",
    "ravi.yaml: the settings of a workspace. Every key is optional.",
    (
        Field("ravi", "int", "The format version of this workspace.", 1, least=1),
        Field("name", "name", "The workspace's name, as subjects and status show it."),
        Field("branch", "text", "The main line; the branch that was checked out at `ravi init`."),
        Field("ingest", "enum", "Whether ravi commits what people save, or waits for their own commits.", "auto",
              ("auto", "manual")),
        Field("quiet", "duration", "How long a saved file must lie still before it is taken.", "1s", least=0),
        Field("nats", "any", "`off`, an address, or a mapping with `url`; the bundled server when missing."),
        Field("omni", "any", "`off`, an address, or a mapping with `url`, `key` and `nats_url`."),
        Field("remote", "text", "The git remote that the clones of this workspace share.", "origin"),
        Field("sync", "duration", "How often the daemon syncs with it; 0s is never.", "0s", least=0),
        Field("max_runs", "int", "Runs at one time, over all agents; 0 leaves all to workers.", 4, least=0),
        Field("limits", "mapping", "`depth`: links in a chain of causes (24); `output`: bytes kept of a run's output."),
        Field("defaults", "mapping", "Keys of TASK.md for tasks that do not say: timeout, attempts, backoff."),
    ),
    lambda values: _settings_faults(values),  # noqa: PLW0108 - it needs the tables below
)  # fmt: skip
_COMMENT = Table(
    "comment",
    "One file in a task's comments/: what somebody said. The body is the text.",
    (
        Field("author", "text", "Who says it."),
        Field("created", "moment", "When."),
        Field("kind", "text", "`callback` when ravi tells the end of another task."),
    ),
)
TABLES: Mapping[str, Table] = {table.noun: table for table in (task.TABLE, agent.TABLE, run.TABLE, _SETTINGS, _COMMENT)}
KINDS = tuple(TABLES)


class Problem(NamedTuple):
    """One mistake: where, what is wrong, and what would be right."""

    line: int
    key: str
    message: str
    severity: Literal["error", "warning"] = "error"
    path: str = ""


def kind_of(path: str) -> str | None:
    """Which kind of document lies at a workspace path; None when ravi does not read it."""
    if path == "ravi.yaml":
        return "workspace"
    place = place_of(path)
    return place.kind if place and place.kind in TABLES else None


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a kind's front matter. Keys that ravi does not know are the author's own."""
    table = TABLES[kind]
    return {
        "$schema": DIALECT,
        "title": table.noun,
        "description": table.says,
        "type": "object",
        "properties": {field.name: field.schema for field in table.fields},
        "additionalProperties": True,
    }


def check(kind: str, found: Document, path: str = "") -> tuple[Problem, ...]:
    """Every mistake in one document, by line. A key that is nearly a known one is a warning."""
    table = TABLES[kind]
    problems = [
        Problem(found.lines.get(name, 0), name, message, "error", path) for name, message in table.faults(found.front)
    ]
    for name in found.front:
        if name not in table.by_name and (meant := nearest(name, table.by_name)) and meant not in found.front:
            message = f"is not a key ravi knows; did you mean `{meant}`?"
            problems.append(Problem(found.lines.get(name, 0), name, message, "warning", path))
    for target in _texts(found.front.get("report_to")) if kind == "task" else ():
        if not target.startswith("task:"):
            message = f"`{target}` is not told by this version; only task:ID is"
            problems.append(Problem(found.lines.get("report_to", 0), "report_to", message, "warning", path))
    if line := document.conflict_line(found.body.encode("utf-8", "replace")):
        problems.append(Problem(found.body_line + line - 1, "", "has conflict markers", "warning", path))
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.key)))


def lenient_task(path: str, found: Document) -> Task:
    """The task, read as far as it can be: keys that are wrong are left out, and `problem` says the first of them."""
    try:
        return task.read(path, found.front, found.body)
    except Malformed:
        front, problem = dict(found.front), ""
    for name, message in list(task.TABLE.faults(front)):
        front.pop(name, None)
        problem = problem or str(Malformed(message, path=path, line=found.lines.get(name, 0), key=name))
    return replace(task.read(path, front, found.body), problem=problem)


def check_links(tasks: Iterable[Task], agents: Iterable[str], contacts: Iterable[str] = ()) -> tuple[Problem, ...]:
    """What is wrong between documents: two of one id, circles, who or what is named but not there."""
    known: dict[str, Task] = {}
    problems: list[Problem] = []
    for one in sorted(tasks, key=lambda one: one.path):
        if one.id and one.id in known:
            message = f"`{one.id}` is the id of {known[one.id].path} too; remove the line to get a new one"
            problems.append(Problem(0, "id", message, "error", one.path))
        elif one.id:
            known[one.id] = one
    names = frozenset((*agents, *contacts))
    for one in known.values():
        problems += [
            Problem(0, key, message, severity, one.path) for key, message, severity in _loose(one, known, names)
        ]
    for key in ("parent", "depends_on"):
        for ring in _rings({one.id: _named(one, key, known) for one in known.values()}):
            if len(ring) > 1:
                message = f"goes in a circle: {' -> '.join((*ring, ring[0]))}"
                problems.append(Problem(0, key, message, "error", known[ring[0]].path))
    return tuple(problems)


def _settings_faults(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, message in task.TABLE.faults(values.get("defaults", {})):
        yield "defaults", f"{name}: {message}"
    for name, value in values.get("limits", {}).items():
        if name in ("depth", "output") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield "limits", f"{name}: {value!r} is not a whole number above 0"


_Loose = tuple[str, str, Literal["error", "warning"]]


def _loose(one: Task, known: Mapping[str, Task], names: frozenset[str]) -> Iterator[_Loose]:
    """Names in a task that lead nowhere."""
    if one.parent == one.id:
        yield "parent", "is the task itself", "error"
    elif one.parent and one.parent not in known:
        yield "parent", f"no task `{one.parent}` in this workspace{_meant(one.parent, known)}", "warning"
    for name in one.depends_on:
        if name == one.id:
            yield "depends_on", "names the task itself", "error"
        elif name not in known:
            yield "depends_on", f"no task `{name}` in this workspace{_meant(name, known)}", "warning"
    if one.assignee and one.assignee not in names:
        if meant := _meant(one.assignee, names):  # a slip of the pen
            yield "assignee", f"no agent `{one.assignee}` in this workspace{meant}", "error"
        else:
            yield "assignee", f"no agent or contact `{one.assignee}` in this workspace", "warning"


def _meant(word: str, choices: Iterable[str]) -> str:
    meant = nearest(word, choices)
    return f"; did you mean `{meant}`?" if meant else ""


def _named(one: Task, key: str, known: Mapping[str, Task]) -> tuple[str, ...]:
    names = one.depends_on if key == "depends_on" else (one.parent,)
    return tuple(name for name in names if name in known and name != one.id)


def _rings(arrows: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Each circle once, from its first name on. No recursion: a chain may be as long as a workspace is large."""
    done: set[str] = set()
    for start in sorted(arrows):
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(start, False)]
        while stack:
            node, is_left = stack.pop()
            if is_left:
                path.pop()
                on_path.discard(node)
                done.add(node)
            elif node in on_path:
                ring = path[path.index(node) :]
                first = ring.index(min(ring))
                yield tuple(ring[first:] + ring[:first])
            elif node not in done:
                path.append(node)
                on_path.add(node)
                stack.append((node, True))
                stack.extend((target, False) for target in reversed(arrows[node]))


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(one for one in values if isinstance(one, str))
