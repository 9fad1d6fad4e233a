"""Events: what changed between two commits, under the names of CloudEvents (`id type source subject time`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TASK_CREATED = "task.created"
TASK_EDITED = "task.edited"
TASK_COMMENTED = "task.commented"
TASK_CLOSED = "task.closed"
RUN_QUEUED = "run.queued"
RUN_STARTED = "run.started"
RUN_COMPLETED = "run.completed"
RUN_FAILED = "run.failed"
RUN_DEAD = "run.dead"
RUN_CANCELLED = "run.cancelled"
RUN_REVERTED = "run.reverted"
CALLBACK_SENT = "callback.sent"
CALLBACK_FAILED = "callback.failed"
TIMER_DUE = "timer.due"
AGENT_CHANGED = "agent.changed"
PROBLEM_FOUND = "problem.found"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` is derived from its cause, so the same happening always has the same id."""

    id: str
    type: str
    subject: str  # what it is about: a task id, a run id, an agent
    source: str = "ravi"
    time: str = ""
    commit: str = ""  # the commit on the main line that made it true; "" for a timer
    depth: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
