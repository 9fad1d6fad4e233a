"""The pure choice: an event and a view in, actions out. No clock, no file: the same input is the same answer.

Deciding looks at what is true now (the view), not at what the event says was true: an event only names which tasks
to look at. So an event delivered twice, or late, does no harm.
"""

from collections.abc import Iterator
from datetime import datetime

from ravi.core import event as kinds
from ravi.core.event import Event
from ravi.core.ids import derive_id, run_id
from ravi.core.run import CANCELLED as RUN_CANCELLED
from ravi.core.run import DEAD, INTERRUPTED, SUCCEEDED, Run
from ravi.core.run import FAILED as RUN_FAILED
from ravi.core.task import BLOCKED, CANCELLED, DONE, FAILED, OPEN, REVIEW, Task
from ravi.core.times import parse_moment, stamp
from ravi.core.view import View
from ravi.engine import policy
from ravi.engine.actions import Action, Cause, Conclusion, Launch, Settle, Stop, Tell, WakeAt
from ravi.engine.explain import is_over


def decide(event: Event, view: View, now: datetime, *, max_depth: int) -> tuple[Action, ...]:
    """What is to be done about `event`, given all that `view` knows."""
    cause = Cause(event.id, event.commit, event.depth)
    actions: list[Action] = []
    if event.type == kinds.RUN_REVERTED:
        return tuple(_reverted(event, view, cause))
    if event.type in (kinds.TASK_CLOSED, kinds.TASK_EDITED):
        actions += _callbacks(event, view, cause)
    if event.data.get("removed"):
        live = (run for run in view.live_runs() if run.task == event.subject and view.task(run.task) is None)
        actions += [Stop(run.id, f"task {run.task} was deleted") for run in live]
    for task in _concerned(event, view):
        actions += _task(task, view, now, cause, max_depth)
    return tuple(actions)


def conclude(task: Task, run: Run, status: str, view: View, now: datetime) -> Conclusion:
    """What the end of `run` means for `task`; `status` is what the attempt itself came to."""
    reason = run.reason
    if task.status != OPEN:  # a person decided otherwise meanwhile; theirs stands
        return Conclusion(status, reason, takes_work=status == SUCCEEDED, summary=run.summary)
    if status == SUCCEEDED:
        return _succeeded(task, run, view)
    if status == RUN_CANCELLED:
        changes = {"status": BLOCKED, "blocker": reason or f"run {run.id} was stopped"}
        return Conclusion(status, reason, changes=changes, targets=_targets(task, BLOCKED))
    if status == INTERRUPTED:
        return Conclusion(status, reason)
    if policy.is_out_of_attempts(task, run, RUN_FAILED):
        tries = "1 attempt" if run.attempt == 1 else f"{run.attempt} attempts"
        changes = {"status": FAILED, "summary": f"failed after {tries}: {reason}"}
        return Conclusion(DEAD, reason, summary=changes["summary"], changes=changes, targets=_targets(task, FAILED))
    return Conclusion(RUN_FAILED, reason, retry_at=stamp(policy.retry_at(task, run, now)))


def callback_event(task: str, target: str, cause: str) -> str:
    """The idempotency key of telling `target` about the end of `task` that `cause` brought."""
    return derive_id("callback", task, target, cause)


def _succeeded(task: Task, run: Run, view: View) -> Conclusion:
    # The open ones are waited for. Those that it made and that ended before it did are named too: the agent has not
    # seen what came of them, so it is woken at once for those alone, unless it says itself that it is done.
    named = [c.id for c in view.children(task.id) if not c.is_closed or (c.created >= run.started and not run.outcome)]
    clear = {"waiting_on": None} if task.waiting_on else {}
    if run.outcome == BLOCKED:
        changes = {"status": BLOCKED, "blocker": run.summary or "the agent needs a person", **clear}
        return Conclusion(
            SUCCEEDED, summary=run.summary, changes=changes, targets=_targets(task, BLOCKED), takes_work=True
        )
    if named:
        return Conclusion(SUCCEEDED, summary=run.summary, changes={"waiting_on": named}, takes_work=True)
    end = REVIEW if task.has_checks else DONE
    changes = {"status": end, **({"summary": run.summary} if run.summary else {}), **clear}
    if task.blocker:
        changes["blocker"] = None
    targets = _targets(task, DONE) if end == DONE else ()
    return Conclusion(SUCCEEDED, summary=run.summary, changes=changes, targets=targets, takes_work=True)


def _targets(task: Task, status: str) -> tuple[str, ...]:
    return task.report_to if status in task.report_on else ()


def _concerned(event: Event, view: View) -> Iterator[Task]:
    """The tasks whose fate an event can change: the one it is about, those that wait for it, an agent's own."""
    if event.type == kinds.AGENT_CHANGED:
        yield from view.assigned(event.subject)
        return
    task = view.task(str(event.data.get("task", event.subject)))
    if task is None:
        return
    yield task
    if task.is_closed:
        yield from view.dependents(task.id)


def _reverted(event: Event, view: View, cause: Cause) -> Iterator[Action]:
    """A person took a run's work back: it is theirs to say what happens now, so it never runs again by itself."""
    task = view.task(str(event.data.get("task", "")))
    if task is None or any(run.id == event.subject for run in view.runs(task.id)):  # it is back, or was only moved
        return
    if task.status in (OPEN, DONE, FAILED):
        note = f"run {event.subject} was reverted"
        yield Settle(task.id, {"status": REVIEW, "blocker": note}, f"task {task.id}: in review, {note}", cause)


def _callbacks(event: Event, view: View, cause: Cause) -> Iterator[Action]:
    """Who is to be told that a person (or a rule) ended a task; a run's own end tells in its merge commit."""
    task = view.task(event.subject)
    if task is None or task.status != event.data.get("status") or event.data.get("was") == task.status:
        return
    told = {str(t).split(" ")[0] for t in event.data.get("callbacks", ())}
    for target in _targets(task, task.status):
        key = callback_event(task.id, target, event.id)
        if target not in told and not view.seen(key):
            yield Tell(task.id, target, key, cause)


def _task(task: Task, view: View, now: datetime, cause: Cause, max_depth: int) -> Iterator[Action]:
    live = next((run for run in view.runs(task.id) if run.is_live), None)
    if live is not None:
        if live.stop:
            yield Stop(live.id, f"stopped by {live.stop}")
        elif task.status != OPEN:
            yield Stop(live.id, f"task {task.id} was set to {task.status}")
        return
    if task.problem or task.status != OPEN:
        return
    agent = view.agent(task.assignee) if task.assignee else None
    if agent is None or agent.problem:
        return
    note = ""
    if task.repo:
        note = "`repo:` needs a worktree of another repository, which this version does not make"
    elif agent.sandbox == "required":
        note = f"agent {agent.name} must be walled in (`sandbox: required`), and this version builds no walls"
    if note:
        yield Settle(task.id, {"status": BLOCKED, "blocker": note}, f"task {task.id}: blocked, {note}", cause)
        return
    failed = [t for t in (view.task(id) for id in task.depends_on) if t and t.status in (FAILED, CANCELLED)]
    if failed and task.on_upstream_failure != "run":
        yield _upstream_failed(task, failed[0], cause)
        return
    if any(not is_over(view, id) for id in (*task.depends_on, *task.waiting_on)):
        return
    runs = view.runs(task.id)
    last = runs[-1] if runs else None
    if last is not None and last.status == RUN_FAILED and last.retry_at:
        due = parse_moment(last.retry_at)
        if due > now:
            yield WakeAt(task.id, due)
            return
    if policy.crashes(runs, task.updated) >= policy.CRASHES:
        mend = f"`ravi tasks retry {task.id}`"
        note = f"ravi itself ended {policy.CRASHES} times while this ran; look at the agent, then {mend}"
        yield Settle(
            task.id,
            {"status": BLOCKED, "blocker": note},
            f"task {task.id}: blocked, a run that ravi does not survive",
            cause,
        )
        return
    again = last is not None and last.status in (RUN_FAILED, INTERRUPTED)
    depth = last.depth if again and last is not None else cause.depth + 1
    if depth > max_depth:
        note = f"the chain of causes is {depth} long, the limit is {max_depth} (limits.depth in ravi.yaml)"
        yield Settle(
            task.id, {"status": BLOCKED, "blocker": note}, f"task {task.id}: blocked by the depth limit", cause
        )
        return
    number = view.last_number(task.id) + 1
    yield Launch(
        task.id,
        agent.name,
        run_id(task.id, number),
        policy.next_attempt(runs),
        last.first if again and last is not None and last.first else number,
        Cause(cause.event, (last.merge if again and last else "") or cause.commit, depth),
        task.priority,
        task.waiting_on,
    )


def _upstream_failed(task: Task, upstream: Task, cause: Cause) -> Settle:
    note = f"upstream {upstream.id} is {upstream.status}"
    if task.on_upstream_failure == "skip":
        return Settle(
            task.id, {"status": CANCELLED, "summary": f"skipped: {note}"}, f"task {task.id}: skipped, {note}", cause
        )
    return Settle(task.id, {"status": BLOCKED, "blocker": note}, f"task {task.id}: blocked, {note}", cause)
