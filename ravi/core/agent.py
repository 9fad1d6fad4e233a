"""An agent: who may take turns. AGENT.md is its settings (front matter) and its instructions (body)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ravi.core import document
from ravi.core.field import Field, Table, nearest

RUNNERS = ("command", "scripted")  # those that this version has
PERMISSIONS = ("tools", "execute", "read", "write", "tasks", "sessions", "contacts", "secrets", "network")


@dataclass(frozen=True, slots=True)
class Agent:
    """What AGENT.md says, defaults filled in. Its name is its folder's name."""

    name: str
    runner: str = "command"
    command: tuple[str, ...] = ()
    script: tuple[Mapping[str, Any], ...] = ()  # `runner: scripted`: the steps it plays back
    output: str = "text"  # text | jsonl
    model: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    concurrency: int = 1
    permissions: Mapping[str, Any] = field(default_factory=dict)
    sandbox: str = "preferred"
    approvals: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    scope: str = "per-peer"
    debounce: float | None = None
    reply: str = "final"
    limits: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    instructions: str = ""
    problem: str = ""

    @property
    def folder(self) -> str:
        """`agents/NAME`."""
        return self.path.rpartition("/")[0]

    @property
    def writes(self) -> tuple[str, ...]:
        """Globs of workspace paths that its runs may bring back besides `outputs/**` (permissions.write)."""
        return self._granted("write")

    @property
    def reads(self) -> tuple[str, ...]:
        """Globs of workspace paths that its lanes hold besides the task and itself (permissions.read)."""
        return self._granted("read")

    def _granted(self, what: str) -> tuple[str, ...]:
        granted = self.permissions.get(what) or ()
        return (granted,) if isinstance(granted, str) else tuple(map(str, granted))


def _judge(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong between the fields of one agent."""
    if values.get("runner", "command") == "command" and not values.get("command"):
        yield "command", "is missing; write `command: [program, argument]`, or another runner"
    for name in values.get("permissions", ()):
        if name not in PERMISSIONS:
            meant = nearest(name, PERMISSIONS)
            says = f"did you mean `{meant}`?" if meant else f"write {', '.join(PERMISSIONS)}"
            yield "permissions", f"`{name}` is not a known permission; {says}"


TABLE = Table(
    "agent",
    "AGENT.md: who may take turns. The body is its instructions, the system prompt.",
    (
        Field("runner", "enum", "How its attempts are carried out.", "command", RUNNERS),
        Field("command", "command", "Program and arguments; relative paths are the agent's folder."),
        Field("script", "steps", "With `runner: scripted`: what it plays back."),
        Field("output", "enum", "What the command prints.", "text", ("text", "jsonl")),
        Field("model", "text", "The model, in its runner's words."),
        Field("cwd", "text", "Where it works, instead of the task's folder in the lane."),
        Field("env", "environment", "Variables for its process; secrets are references."),
        Field("timeout", "duration", "Wall time of one attempt, when the task does not say.", least=0.001),
        Field("concurrency", "int", "Runs at one time.", 1, least=1),
        Field("permissions", "mapping", f"What it may do: {', '.join(PERMISSIONS)}."),
        Field("sandbox", "enum", "Whether it must be walled in.", "preferred", ("required", "preferred", "none")),
        Field("approvals", "mapping", "What it may ask for, and whom."),
        Field("identity", "name", "The persona it wears in the world."),
        Field(
            "scope",
            "enum",
            "How messages map to sessions.",
            "per-peer",
            ("main", "per-peer", "per-channel-peer", "per-account-channel-peer"),
        ),
        Field("debounce", "duration", "How long it waits for more messages before it answers.", least=0),
        Field("reply", "enum", "What of a turn is sent.", "final", ("final", "all")),
        Field("limits", "mapping", "Money, tokens and rates."),
    ),
    _judge,
)


def read(path: str, front: Mapping[str, Any], body: str, lines: Mapping[str, int] | None = None) -> Agent:
    """The agent that agents/NAME/AGENT.md at `path` holds. Raises Malformed at the first key that is wrong."""
    name = path.rpartition("/")[0].rpartition("/")[2]
    return Agent(name, **TABLE.read(front, path, lines), path=path, instructions=body.strip())


def parse(path: str, data: bytes) -> Agent:
    """The agent that the bytes of an AGENT.md hold."""
    found = document.parse(data, path)
    return read(path, found.front, found.body, found.lines)
