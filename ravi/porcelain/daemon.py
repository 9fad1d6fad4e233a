"""`ravi up` and `ravi status`: the loop, put together and run in the foreground, and what it is doing."""

import gc
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ravi.app import SETTINGS, App, clock
from ravi.bus.doorbell import Doorbell
from ravi.bus.log import LogBus
from ravi.core.times import stamp
from ravi.engine.loop import Limits, Loop
from ravi.engine.perform import Performer
from ravi.errors import RaviError, TimedOut
from ravi.porcelain.runs import dead_runs
from ravi.porcelain.shipped import write_schemas
from ravi.runners.command import CommandRunner
from ravi.runners.process import Processes
from ravi.runners.scripted import ScriptedRunner
from ravi.store.history import MainLine
from ravi.store.locks import Leader


def up(app: App, *, until_idle: bool, timeout: float | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the loop until idle, until the time is over, or until a signal comes.

    Returns what came of it and the exit code: 0, 1 when a run died during the call, 3 when time was over.
    Raises Refused when another process leads this workspace.
    """
    app.permit_operator("up")
    gc.freeze()  # what is there by now stays
    gc.enable()
    sys.setswitchinterval(0.0005)  # while one thread writes out, the one that starts agents must not wait for its turn
    repository = app.repository
    leader = Leader(repository.dirs.common_dir)
    leader.acquire(stamp(app.now()))
    processes = Processes()
    try:
        repository.lead(f"pid {os.getpid()} on {socket.gethostname()}")
        repository.adopt()
        write_schemas(repository.private)
        line = MainLine(repository)
        line.begin("engine")
        loop = Loop(
            repository,
            LogBus(line, "engine", clock),
            lambda ended: Performer(
                repository,
                {"command": CommandRunner(processes), "scripted": ScriptedRunner(processes)},
                ended,
                now=app.now,
                environ=app.environ,
                max_output=app.settings.max_output,
            ),
            lambda ring: Doorbell(app.root, ring),
            now=app.now,
            monotonic=clock,
            limits=_Limits(app, say),
            say=say,
        )
        with _signals(loop):
            if not until_idle:
                say(f"watching {app.root}, main line {repository.branch.removeprefix('refs/heads/')}; Ctrl-C ends it")
            outcome = loop.run(until_idle=until_idle, deadline=None if timeout is None else clock() + timeout)
    finally:
        processes.close()
        leader.release()
    if outcome.timed_out and until_idle:
        raise TimedOut(f"not idle after {timeout:g}s", hint="`ravi status` says what goes on")
    said = ("idle" if until_idle else "ended") + ("; died: " + ", ".join(outcome.died) if outcome.died else "")
    return {
        "exit": 1 if outcome.died and until_idle else 0,
        "died": outcome.died,
        "held": outcome.held,
        "said": said + (f"; {outcome.held}" if outcome.held else ""),
    }


def status(app: App) -> dict[str, Any]:
    """What is going on, and what is wrong, in one screen."""
    repository = app.repository
    with app.view() as view:
        app.permit("status", None, view)
        rows = view.list_tasks(fields=("id", "status"), live={run.id for run in view.live_runs()})
        counts = Counter(row["status"] for row in rows)
        live = [
            {**app.run_json(run), "progress": repository.live(run.id).get("progress", "")} for run in view.live_runs()
        ]
        dead = [run.id for run in dead_runs(view)]
        problems = view.problems()
        known = {row["path"] for row in problems}
        noted = repository.notes.read().items()
        problems += [
            {"path": path, "line": 0, "key": "", "message": text, "severity": "error"}
            for path, text in noted
            if path not in known
        ]
    holder = Leader(repository.dirs.common_dir).holder()
    return {
        "workspace": app.root,
        "name": app.settings.name,
        "branch": repository.branch.removeprefix("refs/heads/"),
        "recorded": repository.tip() or "",
        "published": repository.published() or "",
        "paused": repository.paused(),
        "daemon": {
            "running": holder is not None,
            "pid": holder.pid if holder else None,
            "since": holder.since if holder else None,
            "host": holder.host if holder else None,
        },
        "tasks": dict(sorted(counts.items())),
        "dead": dead,
        "runs": live,
        "problems": problems,
    }


class _Limits:
    """The loop's limits as ravi.yaml says them by now: it is read again when it changes."""

    def __init__(self, app: App, say: Callable[[str], None]) -> None:
        self._app = app
        self._say = say
        self._seen = _written(app)
        self._limits = self._read()

    def __call__(self) -> Limits:
        if (now := _written(self._app)) != self._seen:
            self._seen = now
            branch = self._app.repository.branch
            try:
                self._app.read_settings_again()
                self._limits = self._read()
            except RaviError as fault:  # the former ones stay in force
                self._say(str(fault))
            else:
                if self._app.repository.branch != branch:
                    self._say("ravi.yaml: another main line takes effect at the next `ravi up`")
        return self._limits

    def _read(self) -> Limits:
        settings = self._app.settings
        return Limits(settings.max_runs, settings.max_depth, settings.quiet, settings.ingest == "auto")


def _written(app: App) -> tuple[int, int]:
    try:
        said = os.stat(os.path.join(app.root, SETTINGS))
    except OSError:
        return (0, 0)
    return said.st_mtime_ns, said.st_ino


@contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """TERM, INT and HUP (a closed terminal) end the loop in order; a second INT ends the process at once."""

    def ask(number: int, _frame: object) -> None:
        loop.stop(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
