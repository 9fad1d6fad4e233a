"""Why a task does not run at this moment, in words. Pure, and apart from `decide` because people ask it often."""

from datetime import datetime

from ravi.core.task import OPEN, Task
from ravi.core.times import format_duration, parse_moment
from ravi.core.view import View

_FAILED = "failed"  # of a run; most answers need no run, and then not its module either


def explain(task: Task, view: View, now: datetime) -> str:
    """Why an open task does not run at this moment, in one sentence; "" when nothing keeps it from running."""
    if task.problem:
        return f"its file has a problem: {task.problem}"
    if task.status != OPEN:
        return f"it is {task.status}" + (f": {task.blocker}" if task.blocker else "")
    if not task.assignee:
        return "nobody is assigned"
    agent = view.agent(task.assignee)
    if agent is None:
        return f"`{task.assignee}` is not an agent of this workspace, so a person has it"
    if agent.problem:
        return f"agent {agent.name} has a problem: {agent.problem}"
    for id in (*task.depends_on, *task.waiting_on):
        if not is_over(view, id):
            other = view.task(id)
            return f"it waits for {id} ({other.status if other else 'which does not exist'})"
    last = next(reversed(view.runs(task.id)), None)
    if last is not None and last.is_live:
        return f"run {last.id} is under way"
    if last is not None and last.retry_at and last.status == _FAILED and parse_moment(last.retry_at) > now:
        wait = (parse_moment(last.retry_at) - now).total_seconds()
        return f"its next attempt is due in {format_duration(wait)} ({last.reason})"
    return ""


def is_over(view: View, id: str) -> bool:
    """True when a task is there and closed: nobody waits for it."""
    other = view.task(id)
    return other is not None and other.is_closed
