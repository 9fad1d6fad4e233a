"""The only place where decisions become effects: claims, lanes, runners, results, merges, callbacks."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ravi.core import comment, document, prompt
from ravi.core import run as runs
from ravi.core import task as tasks
from ravi.core.agent import Agent
from ravi.core.globs import matches
from ravi.core.ids import derive_id
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.times import stamp
from ravi.core.trailers import Message
from ravi.engine import decide
from ravi.engine.actions import Action, Conclusion, Launch, Settle, Stop, Tell
from ravi.errors import Conflict, Malformed, NotFound
from ravi.runners import base as runner
from ravi.runners.process import sweep
from ravi.store.lanes import Collected, Lane
from ravi.store.merge import merge_trees
from ravi.store.objects import Signature
from ravi.store.repository import Reading, Repository
from ravi.store.writer import Draft, Tip

_PASSED_ON = (
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SHELL",
)  # nothing else is inherited
_LINE = 500  # characters of an agent's words, or of a reason, that become one line of front matter

Ended = Callable[[str, runner.Result], None]


class Elsewhere(Protocol):
    """Workers: other clones that carry out runs for this one."""

    def offer(self, agent: str) -> str:
        """The name of a worker that has room for a run of `agent`; "" when there is none."""

    def carry(self, run: Run, *, is_new: bool) -> runner.Runner:
        """What has `run.worker` carry out a run that was just claimed, or go on with one that it has.

        The turn ends when what the worker made lies on the run's branch here, or cannot get there any more.
        """


class Performer:
    """Turns actions into commits and runs. Not thread-safe: the loop owns it; runners report through `ended`."""

    def __init__(
        self,
        repository: Repository,
        runners: Mapping[str, runner.Runner],
        ended: Ended,
        *,
        now: Callable[[], datetime],
        environ: Mapping[str, str],
        max_output: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.repository = repository
        self.runners = runners
        self.ended = ended
        self.now = now
        self.environ = environ
        self.max_output = max_output
        self.elsewhere = elsewhere
        self.running: dict[str, _Running] = {}

    def perform(self, action: Action, view: Reading, worker: str = "") -> None:
        """Carry out one action. `Launch` comes back to `ended`; `WakeAt` is the loop's own business.

        With a `worker` a run is started there.
        """
        match action:
            case Launch():
                self._launch(action, view, worker)
            case Settle():
                self._settle(action)
            case Tell():
                self._tell(action, view)
            case Stop():
                self.stop(action.run, action.reason)

    def stop(self, run: str, reason: str) -> None:
        """Ask a run to end; a run that is not under way here is left to recovery."""
        if run in self.running:
            self.running[run].stop(reason)

    def finish(self, run_id: str, result: runner.Result) -> None:
        """Record how a run ended on its own branch, then bring it back to the main line as one merge commit."""
        running = self.running.get(run_id)
        if running is None:  # we left it to who leads next
            return
        if self.repository.run_on_branch(run_id) is None:
            self.repository.writer.check_epoch()  # recorded by who leads now; else a failing disk did not tell us
            del self.running[run_id]
            running.clean(self.repository, is_merged=False)
            return
        result, work = self._work(running, result)
        with self.repository.view() as view:
            task = view.task(running.task.id)
            run = self._ended_run(run_id, result, view)
            if task is not None:
                run = self._concluded(task, run, view)
            run = replace(run, refused=(*run.refused, *work.refused))
            self._record_end(run, work.changes)
            merged = self.merge(run, view)
        del self.running[run_id]  # only now: until here it can be done again
        running.clean(self.repository, is_merged=merged)

    def take(self, run: Run, view: Reading) -> None:
        """Begin with a run that the leader claimed for us, and whose branch lies here; `ended` hears of its end.

        Its token is made here: what opens a clone's doors does not leave it. Raises NotFound.
        """
        task, agent = view.task(run.task), view.agent(run.agent)
        if task is None or agent is None:
            raise NotFound(f"run {run.id}: its {'task' if task is None else 'agent'} is not there any more")
        secret, token = _secret()
        run = replace(run, token=token)
        message = Message(f"run {run.id}: taken by worker {run.worker}", "", self._trailers(run, "run.taken"))
        draft = Draft(message, {run.path: runs.render(run)}, self._signature(run.agent))
        self.repository.writer.record(lambda _: draft, ref=run.branch)
        self._begin(_Running(run, task, agent), view, secret)

    def hand_back(self, run_id: str, result: runner.Result) -> str:
        """Record on the run's branch what an attempt made here and how it ended. The leader draws the conclusion.

        Returns the branch's tip.
        """
        result, work = self._work(self.running[run_id], result)
        said = self.repository.run_on_branch(run_id)
        if said is None:
            raise NotFound(f"run {run_id}: its branch is not there any more")
        run = replace(
            said,
            returned=result.status,
            exit=result.exit,
            reason=_line(self._as_the_person_knows_it(run_id, result.reason)),
            usage=result.usage,
            text=result.text,
            progress=_line(str(self.repository.live(run_id).get("progress") or said.progress)),
            refused=work.refused,
        )
        self._record_end(run, work.changes)
        return self.repository.refs.read(run.branch) or ""

    def drop(self, run_id: str) -> None:
        """Be rid of a run that was handed back, or that is not ours any more: its lane, its branch, its notes."""
        running = self.running.pop(run_id, None)
        if running is not None:
            running.clean(self.repository, is_merged=True)

    def leave(self) -> None:
        """Leave what workers have under way to them, and to who leads next."""
        for id in [id for id, running in self.running.items() if running.run.worker]:
            del self.running[id]

    def abandon(self) -> None:
        """Let go of every run: they are not ours to record any more. Their processes end with this one."""
        self.leave()
        for running in self.running.values():
            running.stop("another process leads this workspace")
        self.running.clear()

    def merge(self, run: Run, view: Reading) -> bool:
        """Bring an ended run back: its work, RUN.md and its task's new status in one merge commit, or nothing of it.

        True when all of its work is on the main line then, so that its branch is not needed any more.
        """
        known = view.task(run.task)
        run_tip = self.repository.refs.read(runs.ref(run.id))
        if known is None or run_tip is None:  # a person deleted the task: its run's branch is kept
            return False
        home: list[_Homecoming] = []
        is_away = False

        def propose(tip: Tip) -> Draft | None:
            nonlocal is_away
            data = tip.read(known.path)
            is_away = data is None
            if data is None or _is_home(run, known, tip):
                return None
            home[:] = [self._homecoming(run, run_tip, known, data, tip, view)]
            return home[0].draft

        merged = self.repository.writer.record(propose)
        if is_away:  # moved or deleted since we looked
            with self.repository.view() as later:
                return later.commit != view.commit and self.merge(run, later)
        return merged is not None and run.status == runs.SUCCEEDED and home[0].is_whole

    def _homecoming(self, run: Run, run_tip: str, known: Task, data: bytes, tip: Tip, view: Reading) -> "_Homecoming":
        """The merge commit of a run, for what the main line says now. `data` is its TASK.md."""
        objects = self.repository.objects
        try:
            task = tasks.parse(known.path, data)
        except Malformed:  # a person is in the middle of an edit: the file is theirs, the result still comes back
            task = replace(known, status=tasks.DRAFT)
        work = objects.commit(run_tip).tree
        end = decide.conclude(task, run, _attempted(run), view, self.now())
        keys, clashes, subject = dict(end.changes), [], _subject(run, end)
        changes: dict[str, Any] = {}
        place = runs.place(task.folder, run.id)
        if end.takes_work:
            merged = merge_trees(objects, *self._carried(run, work, tip.tree, task.folder), "ours")
            clashes = [path for path, _ in merged.conflicts]
            changes |= {} if clashes else merged.changes
        if clashes:
            end = replace(end, targets=())
            keys = {"status": tasks.REVIEW, "blocker": _conflict_note(run, clashes)}
            subject = f"run {run.id}: finished by {run.agent}, but a person changed the same lines"
        changes[place] = objects.entry(work, run.path)
        if run.progress and task.status == tasks.OPEN:
            keys.setdefault("progress", run.progress)
        if keys:
            changes[task.path] = document.edit(data, {**keys, "updated": stamp(self.now())})
        told = self._callback_comments(task, end, run.id, view)
        changes |= dict(told.values())
        trailers = {
            "Ravi-Event": derive_id("run.ended", run.id),
            "Ravi-Cause": run_tip,
            "Ravi-Task": run.task,
            "Ravi-Run": run.id,
            "Ravi-Agent": run.agent,
            "Ravi-Parent": task.parent,
            "Ravi-Depth": str(run.depth),
            "Ravi-Cost": _cost(run),
        }
        message = Message(subject, _merge_body(run, end), trailers, tuple(f"{target} told" for target in told))
        draft = Draft(message, changes, self._signature(run.agent), parents=(run_tip,))
        return _Homecoming(draft, is_whole=not clashes)

    def _carried(self, run: Run, work: str, ours: str | None, folder: str) -> tuple[str, str | None, str]:
        """Base, ours and the work for the merge of a run, whose task may have been moved to `folder` meanwhile.

        What it did in the folder that its task had at the claim is then done to the present one.
        """
        objects = self.repository.objects
        base, start = objects.commit(run.base).tree, f"{run.folder}/"
        if start == folder + "/":
            return base, ours, work
        done = [one for one in objects.diff(base, work) if one.path.startswith(start)]
        left = dict.fromkeys(one.path for one in done)
        return (
            objects.apply(base, {**left, **{f"{folder}/{one.path[len(start) :]}": one.old for one in done}}),
            ours,
            objects.apply(work, {**left, **{f"{folder}/{one.path[len(start) :]}": one.new for one in done}}),
        )

    def recover(self, view: Reading) -> None:
        """Finish what a dead ravi left: merge runs whose end is recorded, end those whose process died with it."""
        for run in self.repository.unmerged().values():
            if run.id in self.running:
                continue
            if not run.is_live and view.task(run.task) is None:  # its task was deleted: all there will be is recorded
                continue
            if run.is_live and run.worker and self._wait_again(run, view):
                continue
            if run.is_live:
                sweep(run.id, self.repository.root)
                run = replace(run, status=runs.INTERRUPTED, ended=stamp(self.now()), reason="ravi ended while it ran")
                self._record_end(run, {})
            self.merge(run, view)
            self.repository.forget(run.id, branch=False)
        for name in self.repository.lanes.leftover():
            if name not in self.running:
                self.repository.lanes.remove(name)
        for name in self.repository.noted() - self.running.keys():
            self.repository.forget(name, branch=False)
        self.repository.refs.sweep()

    def _wait_again(self, run: Run, view: Reading) -> bool:
        """Wait for a worker's run that a dead ravi waited for; False when that cannot be."""
        task, agent = view.task(run.task), view.agent(run.agent)
        if self.elsewhere is None or task is None or agent is None:
            return False
        self._send(_Running(run, task, agent), self.elsewhere.carry(run, is_new=False))
        return True

    def _launch(self, action: Launch, view: Reading, worker: str) -> None:
        task, agent = view.task(action.task), view.agent(action.agent)
        if task is None or agent is None:
            return
        secret, token = _secret()
        run = Run(
            id=action.run,
            task=task.id,
            agent=agent.name,
            attempt=action.attempt,
            first=action.first,
            started=stamp(self.now()),
            base=self._base(action.cause.commit, task, view),
            branch=runs.ref(action.run),
            woken_by=action.woken_by,
            token="" if worker else token,
            depth=action.cause.depth,
            worker=worker,
            path=runs.place(task.folder, action.run),
        )
        message = Message(
            f"run {run.id}: started by {agent.name}",
            "" if not run.woken_by else "woken by " + ", ".join(run.woken_by),
            {
                "Ravi-Event": derive_id("run.started", action.cause.event, run.id),
                "Ravi-Cause": action.cause.commit,
                "Ravi-Task": task.id,
                "Ravi-Run": run.id,
                "Ravi-Agent": agent.name,
                "Ravi-Parent": task.parent,
                "Ravi-Depth": str(run.depth),
            },
        )
        claim = Draft(message, {run.path: runs.render(run)}, self._signature(agent.name))
        try:
            self.repository.writer.record(lambda _: claim, ref=run.branch, base=run.base)
        except Conflict:  # somebody has it already
            return
        running = _Running(run, task, agent)
        if worker and self.elsewhere is not None:
            self._send(running, self.elsewhere.carry(run, is_new=True))
        else:
            self._begin(running, view, secret)

    def _begin(self, running: "_Running", view: Reading, secret: str) -> None:
        """Make the lane and start the agent, here."""
        run, task, agent = running.run, running.task, running.agent
        self.running[run.id] = running
        try:
            readable = (task.folder, agent.folder, *self._readable(agent, run.base))
            running.lane = self.repository.lanes.make(run.id, run.base, readable)
            order = self._order(running, view, secret)
            turn = self.runners[agent.runner]
        except KeyError:
            self.ended(
                run.id, runner.Result(runner.FAILED, reason=f"there is no runner `{agent.runner}` in this version")
            )
            return
        except OSError as error:
            self.ended(run.id, runner.Result(runner.FAILED, reason=f"could not start: {error}"))
            return
        self._start(running, turn, order)

    def _send(self, running: "_Running", turn: runner.Runner) -> None:
        """Have a worker take the turn. What it needs to know is in the run's branch."""
        run = running.run
        self.running[run.id] = running
        order = runner.Order(
            run.id, "", (), Path(self.repository.root), {}, running.task.timeout, self.repository.run_log(run.id)
        )
        self._start(running, turn, order)

    def _start(self, running: "_Running", turn: runner.Runner, order: runner.Order) -> None:
        threading.Thread(
            target=self._take_turn, args=(running, turn, order), name=f"run {running.run.id}", daemon=True
        ).start()

    def _take_turn(self, running: "_Running", turn: runner.Runner, order: runner.Order) -> None:
        def emit(event: runner.RunnerEvent) -> None:
            if event.type == "started":
                note = {"pid": event.data.get("pid"), "started": running.run.started}
                with contextlib.suppress(OSError):  # a sign of life that cannot be written is no reason to die
                    self.repository.live_note(running.run.id, note)

        try:
            result = turn.run(order, emit, running.hold)
        except Exception as error:  # noqa: BLE001 - a bug in a runner must end the run, not the daemon
            result = runner.Result(runner.FAILED, reason=f"the runner itself failed: {type(error).__name__}: {error}")
        self.ended(running.run.id, result)

    def _base(self, cause: str, task: Task, view: Reading) -> str:
        """The commit that caused it, unless the task's folder has changed since: then what is there now."""
        entry = self.repository.objects.entry
        then = entry(self.repository.objects.commit(cause).tree, task.folder)
        now = entry(self.repository.objects.commit(view.commit).tree, task.folder)
        return cause if then is not None and now is not None and then.oid == now.oid else view.commit

    def _readable(self, agent: Agent, commit: str) -> Iterator[str]:
        """What `permissions.read` grants of a commit: folders and files as they are named, globs spelled out."""
        objects = self.repository.objects
        tree = objects.commit(commit).tree
        for glob in agent.reads:
            if not any(letter in glob for letter in "*?"):
                yield glob.rstrip("/")
                continue
            folder = glob[: min(glob.find(letter) for letter in "*?" if letter in glob)].rpartition("/")[0]
            entry = objects.entry(tree, folder) if folder else None
            below = tree if not folder else entry.oid if entry is not None and entry.is_folder else None
            for path, _ in objects.walk(below, folder) if below is not None else ():
                if matches(path, glob):
                    yield path

    def _order(self, running: "_Running", view: Reading, secret: str) -> runner.Order:
        repository, run, task, agent, lane = self.repository, running.run, running.task, running.agent, running.lane
        assert lane is not None
        agent_folder = Path(lane.path, agent.folder)
        env = {key: self.environ[key] for key in _PASSED_ON if key in self.environ}
        env |= {str(k): str(v) for k, v in agent.env.items()}
        env |= {
            "PATH": _path(self.environ, repository.private),
            "RAVI_WORKSPACE": repository.root,
            "RAVI_TASK": task.id,
            "RAVI_RUN": run.id,
            "RAVI_AGENT": agent.name,
            "RAVI_SESSION": "",
            "RAVI_TASK_DIR": str(Path(lane.path, task.folder)),
            "RAVI_LANE": str(lane.path),
            "RAVI_CONTEXT": f"{run.id}.{secret}",
            "GIT_CEILING_DIRECTORIES": str(Path(lane.path).parent),
        }
        cwd = Path(repository.root, agent.cwd) if agent.cwd else Path(lane.path, task.folder)
        timeout = task.timeout if agent.timeout is None else min(task.timeout, agent.timeout)
        log = repository.run_log(run.id)
        log.parent.mkdir(parents=True, exist_ok=True)
        return runner.Order(
            run=run.id,
            prompt=(f"{agent.instructions.strip()}\n\n" if agent.runner == "command" else "")
            + prompt.render(
                task,
                agent,
                run,
                comments=[(c.author, c.created, c.text) for c in view.comments(task.id)],
                upstream=[t for t in (view.task(id) for id in task.depends_on) if t],
                children=[t for t in (view.task(id) for id in run.woken_by) if t],
                earlier=[r for r in view.runs(task.id) if not r.is_live],
            ),
            command=tuple(_resolved(word, agent_folder) for word in agent.command),
            cwd=cwd,
            env=env,
            timeout=timeout,
            log=log,
            script=agent.script,
            output="jsonl" if agent.output == "jsonl" else "text",
            limit=self.max_output,
        )

    def _ended_run(self, run_id: str, result: runner.Result, view: Reading) -> Run:
        """What the run's branch says by now (a declared outcome, a stop), and how the attempt itself ended."""
        said = self.repository.run_on_branch(run_id)
        assert said is not None
        status = {runner.COMPLETED: runs.SUCCEEDED, runner.FAILED: runs.FAILED}.get(result.status, runs.INTERRUPTED)
        reason = self._as_the_person_knows_it(run_id, result.reason)
        task = view.task(said.task)
        if result.status == runner.INTERRUPTED and (said.stop or task is None or task.status != tasks.OPEN):
            status = runs.CANCELLED
            reason = f"stopped by {said.stop}" if said.stop else reason
        note = self.repository.live(run_id)
        return replace(
            said,
            status=status,
            reason=_line(
                f"{reason}: {_last(result.text)}" if status == runs.FAILED and result.text.strip() else reason
            ),
            exit=result.exit,
            ended=stamp(self.now()),
            usage=result.usage,
            text=result.text,
            progress=_line(str(note.get("progress") or said.progress)),
            summary=said.summary or _line(_last(result.text)),
            returned="",
        )

    def _as_the_person_knows_it(self, run_id: str, reason: str) -> str:
        """A reason without the path of the lane, which is gone when it is read: `agents/g/g.sh is not executable`."""
        running = self.running.get(run_id)
        return reason if running is None or running.lane is None else reason.replace(f"{running.lane.path}/", "")

    def _concluded(self, task: Task, run: Run, view: Reading) -> Run:
        conclusion = decide.conclude(task, run, run.status, view, self.now())
        return replace(run, status=conclusion.status, reason=conclusion.reason, retry_at=conclusion.retry_at)

    def _work(self, running: "_Running", result: runner.Result) -> tuple[runner.Result, Collected]:
        """How an attempt ended, and what it made."""
        try:
            return result, self._collect(running)
        except NotFound:  # somebody deleted the folder it worked in (all of `.ravi/`, say), and its work with it
            if result.status == runner.COMPLETED:
                result = replace(result, status=runner.FAILED, reason="its lane was deleted while it worked")
            return result, Collected({}, ())

    def _collect(self, running: "_Running") -> Collected:
        lane = running.lane
        if lane is None:
            return Collected({}, ())
        outputs = running.task.folder + "/outputs/"
        granted = running.agent.writes

        def allowed(path: str) -> bool:
            return path.startswith(outputs) or any(matches(path, glob) for glob in granted)

        return self.repository.lanes.collect(lane, allowed)

    def _record_end(self, run: Run, files: Mapping[str, Any]) -> None:
        became, event = (
            (f"{run.returned} at worker {run.worker}", "run.returned") if run.returned else (run.status, "run.result")
        )

        def propose(tip: Tip) -> Draft:
            message = Message(
                f"run {run.id}: {became}" + (f", {run.reason}" if run.reason else ""),
                "",
                {**self._trailers(run, event), "Ravi-Cause": tip.commit or ""},
            )
            return Draft(message, {**files, run.path: runs.render(run)}, self._signature(run.agent))

        self.repository.writer.record(propose, ref=runs.ref(run.id))

    def _trailers(self, run: Run, event: str) -> dict[str, str]:
        """The trailers of a commit on a run's own branch."""
        return {
            "Ravi-Event": derive_id(event, run.id),
            "Ravi-Task": run.task,
            "Ravi-Run": run.id,
            "Ravi-Agent": run.agent,
            "Ravi-Depth": str(run.depth),
        }

    def _settle(self, action: Settle) -> None:
        def propose(tip: Tip) -> Draft | None:
            path = self.repository.task_path(action.task)
            data = tip.read(path) if path else None
            if path is None or data is None:
                return None
            edited = document.edit(data, {**action.changes, "updated": stamp(self.now())})
            return Draft(
                Message(
                    action.subject,
                    "",
                    {
                        "Ravi-Event": derive_id("settle", action.task, action.cause.event),
                        "Ravi-Cause": action.cause.commit,
                        "Ravi-Task": action.task,
                        "Ravi-Depth": str(action.cause.depth),
                    },
                ),
                {path: edited},
                self._signature(""),
            )

        self.repository.writer.record(propose)

    def _tell(self, action: Tell, view: Reading) -> None:
        task = view.task(action.task)
        if task is None:
            return
        place = self._callback_comment(task, task.status, action.target, action.event, view)
        if place is None:
            return
        path, data = place
        message = Message(
            f"task {task.id}: {action.target} was told that it is {task.status}",
            "",
            {
                "Ravi-Event": action.event,
                "Ravi-Cause": action.cause.commit,
                "Ravi-Task": task.id,
                "Ravi-Depth": str(action.cause.depth),
            },
            (f"{action.target} told",),
        )
        draft = Draft(message, {path: data}, self._signature(""))
        self.repository.writer.record(lambda _: draft)

    def _callback_comments(
        self, task: Task, end: Conclusion, cause: str, view: Reading
    ) -> dict[str, tuple[str, bytes]]:
        told = {}
        status = str(end.changes.get("status", task.status))
        about = replace(
            task, summary=str(end.changes.get("summary") or end.summary), blocker=str(end.changes.get("blocker") or "")
        )
        for target in end.targets:
            place = self._callback_comment(about, status, target, decide.callback_event(task.id, target, cause), view)
            if place is not None:
                told[target] = place
        return told

    def _callback_comment(
        self, task: Task, status: str, target: str, key: str, view: Reading
    ) -> tuple[str, bytes] | None:
        kind, _, other = target.partition(":")
        told = view.task(other) if kind == "task" else None
        if told is None or told.id == task.id:
            return None
        words = [f"Task {task.id} ({task.title}) is {status}.", task.summary or task.blocker]
        now = self.now()
        front = comment.front("ravi", now, "callback")
        return comment.place(told.folder, now, key), document.render(front, "\n\n".join(w for w in words if w) + "\n")

    def _signature(self, agent: str) -> Signature:
        when = int(self.now().timestamp())
        return (
            Signature(agent, f"{agent}@agents.invalid", when)
            if agent
            else Signature("ravi", "ravi@agents.invalid", when)
        )


@dataclass(frozen=True, slots=True)
class _Homecoming:
    """What a run's merge commit will be. It is not whole when a person changed the same lines."""

    draft: Draft
    is_whole: bool


class _Running:
    """A run that is under way in this process."""

    def __init__(self, run: Run, task: Task, agent: Agent) -> None:
        self.run = run
        self.task = task
        self.agent = agent
        self.lane: Lane | None = None
        self._lock = threading.Lock()
        self._stop: runner.Stop | None = None
        self._asked = ""

    def hold(self, stop: runner.Stop) -> None:
        """Take the runner's `Stop`; a stop that was asked for before it came is passed on at once."""
        with self._lock:
            self._stop = stop
            asked = self._asked
        if asked:
            stop(asked)

    def stop(self, reason: str) -> None:
        with self._lock:
            self._asked = reason
            stop = self._stop
        if stop is not None:
            stop(reason)

    def clean(self, repository: Repository, *, is_merged: bool) -> None:
        if self.lane is not None:
            repository.lanes.remove(self.lane)
        repository.forget(self.run.id, branch=is_merged)


def _secret() -> tuple[str, str]:
    """The secret of a run's token, and what RUN.md may say of it."""
    secret = os.urandom(32).hex()
    return secret, hashlib.sha256(secret.encode()).hexdigest()


def _is_home(run: Run, task: Task, tip: Tip) -> bool:
    """True when the end of a run is on the main line, though a failing disk kept us from being told."""
    place = runs.place(task.folder, run.id)
    said = tip.read(place)
    if said is None:
        return False
    try:
        return not runs.parse(place, said).is_live
    except Malformed:
        return False


def _attempted(run: Run) -> str:
    """What the attempt itself came to, seen from the status that the conclusion made of it."""
    return runs.FAILED if run.status == runs.DEAD else run.status


def _subject(run: Run, conclusion: Conclusion) -> str:
    became = conclusion.changes.get("status")
    words = {
        runs.SUCCEEDED: f"finished by {run.agent}",
        runs.FAILED: f"attempt {run.attempt} failed, {run.reason}",
        runs.DEAD: f"attempt {run.attempt} failed and was the last, {run.reason}",
        runs.CANCELLED: f"stopped, {run.reason}",
        runs.INTERRUPTED: f"interrupted, {run.reason}",
    }[run.status]
    waits = conclusion.changes.get("waiting_on")
    follows = (
        f"; task {run.task} is {became}"
        if became
        else f"; task {run.task} waits for {', '.join(waits)}"
        if waits
        else ""
    )
    return f"run {run.id}: {words}{follows}"


def _merge_body(run: Run, conclusion: Conclusion) -> str:
    parts = []
    if run.woken_by:
        parts.append("children: " + ", ".join(run.woken_by))
    if conclusion.summary:
        parts.append(conclusion.summary)
    if run.refused:
        parts.append("not taken back:\n" + "\n".join(f"- {line}" for line in run.refused[:20]))
    return "\n\n".join(parts)


def _conflict_note(run: Run, conflicts: Sequence[str]) -> str:
    return (
        f"{', '.join(conflicts[:5])} changed here and in run {run.id}; nothing was merged; "
        f"see `git diff HEAD {run.branch} -- {conflicts[0]}`, then `ravi tasks done` or `retry`"
    )


def _cost(run: Run) -> str:
    return json.dumps(dict(run.usage), sort_keys=True) if run.usage else ""


def _last(text: str) -> str:
    """The last line that an agent said."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _line(text: str) -> str:
    """Text as it may stand in front matter: one line, and not a long one."""
    line = " ".join(text.split())
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"


def _resolved(word: str, folder: Path) -> str:
    """A relative path in `command:` is the agent's folder; what does not lie there stays as it is."""
    if not word or word.startswith(("/", "-")) or "\0" in word:
        return word
    with contextlib.suppress(OSError):
        if (folder / word).is_file():
            return str(folder / word)
    return word


def _path(environ: Mapping[str, str], private: str) -> str:
    """PATH with the same `ravi` first, so that an agent's `ravi` is this program."""
    beside = os.path.dirname(sys.executable)
    if not shutil.which("ravi", path=beside):
        beside = os.path.join(private, "bin")
        shim = Path(beside, "ravi")
        if not shim.exists():
            shim.parent.mkdir(parents=True, exist_ok=True)
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ravi "$@"\n')
            shim.chmod(0o755)
    return os.pathsep.join([beside, environ.get("PATH", os.defpath)])
