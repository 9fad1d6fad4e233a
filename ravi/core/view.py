"""A view: an immutable reading of the workspace at one commit. Deciding needs no more than this."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ravi.core.task import OPEN, Task

if TYPE_CHECKING:  # a view of tasks alone needs neither
    from ravi.core.agent import Agent
    from ravi.core.run import Run


class View(Protocol):
    """What the workspace says at `commit`, and which runs are live. Two readings of one view never differ."""

    @property
    def commit(self) -> str: ...

    def task(self, id: str) -> Task | None: ...

    def children(self, id: str) -> tuple[Task, ...]:
        """Tasks whose `parent` is `id`, by id."""

    def dependents(self, id: str) -> tuple[Task, ...]:
        """Tasks that name `id` in `depends_on` or `waiting_on`, by id."""

    def agent(self, name: str) -> "Agent | None": ...

    def runs(self, task: str) -> "tuple[Run, ...]":
        """Every run of a task, live ones included, oldest first."""

    def last_number(self, task: str) -> int:
        """The highest number that any run of `task` ever had, reverted ones included; 0 before the first."""

    def live_runs(self) -> "tuple[Run, ...]": ...

    def assigned(self, agent: str) -> tuple[Task, ...]:
        """Open tasks of an agent, by id."""

    def has(self, path: str) -> bool:
        """True when a document lies at `path`."""

    def seen(self, event: str) -> bool:
        """True when a commit on the main line records this event id."""


class Reading:
    """A view of values in memory: for deciding what would happen, and for tables of tests."""

    def __init__(
        self,
        tasks: Iterable[Task] = (),
        agents: "Iterable[Agent]" = (),
        runs: "Iterable[Run]" = (),
        *,
        paths: Iterable[str] = (),
        events: Iterable[str] = (),
        commit: str = "0" * 40,
    ) -> None:
        self._tasks = {task.id: task for task in tasks}
        self._agents = {agent.name: agent for agent in agents}
        self._runs = tuple(runs)
        self._paths = frozenset(paths)
        self._events = frozenset(events)
        self.commit = commit

    def task(self, id: str) -> Task | None:
        return self._tasks.get(id)

    def children(self, id: str) -> tuple[Task, ...]:
        return tuple(t for _, t in sorted(self._tasks.items()) if t.parent == id)

    def dependents(self, id: str) -> tuple[Task, ...]:
        return tuple(t for _, t in sorted(self._tasks.items()) if id in t.depends_on or id in t.waiting_on)

    def agent(self, name: str) -> "Agent | None":
        return self._agents.get(name)

    def runs(self, task: str) -> "tuple[Run, ...]":
        return tuple(run for run in self._runs if run.task == task)

    def last_number(self, task: str) -> int:
        return max((int(run.id.rpartition(".")[2]) for run in self.runs(task)), default=0)

    def assigned(self, agent: str) -> tuple[Task, ...]:
        return tuple(t for _, t in sorted(self._tasks.items()) if t.assignee == agent and t.status == OPEN)

    def live_runs(self) -> "tuple[Run, ...]":
        return tuple(run for run in self._runs if run.is_live)

    def has(self, path: str) -> bool:
        return path in self._paths

    def seen(self, event: str) -> bool:
        return event in self._events
