"""A task: work with a status and an assignee, as TASK.md says it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ravi.core import document
from ravi.core.field import Field, Table

DRAFT, OPEN, BLOCKED, REVIEW = "draft", "open", "blocked", "review"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
STATUSES = (DRAFT, OPEN, BLOCKED, REVIEW, DONE, FAILED, CANCELLED)
CLOSED = frozenset({DONE, FAILED, CANCELLED})
RUNNING, WAITING = "running", "waiting"  # derived, shown by lists, never written

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*)")


@dataclass(frozen=True, slots=True)
class Task:
    """What TASK.md says, defaults filled in. Durations are seconds; moments and paths are text as written."""

    id: str
    title: str = ""
    status: str = DRAFT
    assignee: str = ""
    priority: int = 0
    labels: tuple[str, ...] = ()
    due: str = ""
    parent: str = ""
    depends_on: tuple[str, ...] = ()
    on_upstream_failure: str = "block"
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    report_to: tuple[str, ...] = ()
    report_on: tuple[str, ...] = (DONE, FAILED, BLOCKED)
    repo: str = ""
    base: str = ""
    branch: str = ""
    keep: bool = False
    profile: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Mapping[str, Any], ...] = ()
    timeout: float = 3600.0
    attempts: int = 3
    backoff: float = 5.0
    checkpoint: float | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    progress: str = ""
    summary: str = ""
    blocker: str = ""
    waiting_on: tuple[str, ...] = ()
    created: str = ""
    updated: str = ""
    created_by: str = ""
    path: str = ""  # of TASK.md, from the workspace's root, with `/`
    body: str = ""
    has_checks: bool = False  # `checks` names what must hold before done
    problem: str = ""  # what is wrong with the file; a task with a problem never runs

    @property
    def folder(self) -> str:
        """The folder that holds TASK.md, comments/, runs/ and outputs/."""
        return self.path.rpartition("/")[0]

    @property
    def is_closed(self) -> bool:
        """True when nothing more will happen by itself."""
        return self.status in CLOSED


def _judge(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong between the fields of one task."""
    own = values.get("id")
    if own and values.get("parent") == own:
        yield "parent", "is the task itself"
    if own and own in values.get("depends_on", ()):
        yield "depends_on", "names the task itself"


TABLE = Table(
    "task",
    "TASK.md: work with a status and an assignee. The body is the work order.",
    (
        Field("id", "id", "Identity; given by ravi when it is missing, and never changed."),
        Field("title", "text", "What it is about, in a line; the body's first heading when missing."),
        Field(
            "status", "enum", "Where the work stands. An open task whose assignee is an agent runs.", DRAFT, STATUSES
        ),
        Field("assignee", "name", "The agent or contact whose turn it is."),
        Field("priority", "int", "Higher comes first.", 0),
        Field("labels", "word list", "Words to find it by."),
        Field("due", "moment", "When it should be done."),
        Field("parent", "id", "The task it is part of."),
        Field("depends_on", "id list", "Tasks that must be done before it runs."),
        Field("on_upstream_failure", "enum", "What happens when one of them fails.", "block", ("block", "skip", "run")),
        Field("links", "relations", "Other relations by type: related, discovered_from, duplicates, supersedes."),
        Field("checks", "checks", "What must hold before it is done: a command, files, a reviewing agent, a person."),
        Field(
            "report_to", "target list", "Who is told: session:NAME, task:ID, chat:CHANNEL/ID, https://…, nats:SUBJECT."
        ),
        Field(
            "report_on", "word list", "At which ends they are told.", [DONE, FAILED, BLOCKED], (DONE, FAILED, BLOCKED)
        ),
        Field("repo", "text", "A repository; the run works in a git worktree of it."),
        Field("base", "text", "Where the worktree's branch starts."),
        Field("branch", "text", "The worktree's branch."),
        Field("keep", "bool", "Keep the worktree after it is merged.", default=False),
        Field("profile", "name", "The kind of task, from profiles/NAME.md."),
        Field("inputs", "mapping", "What the profile asks for."),
        Field("timeout", "duration", "Wall time of one attempt.", "1h", least=0.001),
        Field("attempts", "int", "Tries before it has failed.", 3, least=1),
        Field("backoff", "duration", "Wait before the second try, doubling.", "5s", least=0),
        Field("checkpoint", "duration", "How often a sign of life is due.", least=0.001),
        Field("budget", "budget", "Most that it may cost: $2.50, or 50000 tokens."),
        Field("progress", "text", "How far it is, in the worker's words."),
        Field("summary", "text", "How it ended, in the worker's words."),
        Field("blocker", "text", "What a person has to do."),
        Field("waiting_on", "text list", "What it waits for."),
        Field("created", "moment", "When it came to be."),
        Field("updated", "moment", "When it was last written; its version stamp."),
        Field("created_by", "text", "Who made it."),
    ),
    _judge,
)


def read(path: str, front: Mapping[str, Any], body: str, lines: Mapping[str, int] | None = None) -> Task:
    """The task that a document at `path` holds. Raises Malformed at the first key that is wrong.

    A missing id stays empty: ingest gives one. A missing title is the first heading, else the id, else the folder.
    """
    values = TABLE.read(front, path, lines)
    name = values.pop("id", "")
    title = values.pop("title", "").strip() or heading(body) or name or path.rpartition("/")[0].rpartition("/")[2]
    return Task(name, title, **values, path=path, body=body, has_checks=bool(values.get("checks")))


def parse(path: str, data: bytes) -> Task:
    """The task that the bytes of a TASK.md hold. Raises Malformed."""
    parsed = document.parse(data, path)
    return read(path, parsed.front, parsed.body, parsed.lines)


def heading(body: str) -> str:
    """The text of the first heading of a markdown text, code apart; "" when there is none."""
    fence = ""
    for line in body.splitlines() if "#" in body else ():
        start = line.lstrip(" ")[:3]
        if start in ("```", "~~~"):
            fence = "" if fence == start else fence or start
        elif not fence and (match := _HEADING.match(line)):
            text = match[1].rstrip()
            bare = text.rstrip("#")  # `## So ##`
            return bare.strip() if bare[-1:] in ("", " ", "\t") else text
    return ""
