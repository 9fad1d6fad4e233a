"""The daemon: the loop, put together, with what stands around it. `ravi up` runs it in the foreground."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, Protocol

from ravi import __version__
from ravi.app import SETTINGS, App, clock
from ravi.bus.doorbell import Doorbell
from ravi.bus.log import LogBus
from ravi.core.run import Run
from ravi.core.times import stamp
from ravi.engine.loop import Limits, Loop
from ravi.engine.perform import Elsewhere, Performer
from ravi.errors import RaviError, TimedOut, Unavailable
from ravi.porcelain.control import Server
from ravi.porcelain.service import AGAIN, Notifier
from ravi.porcelain.shipped import write_schemas
from ravi.porcelain.sync import Clones
from ravi.runners.command import CommandRunner
from ravi.runners.process import Processes
from ravi.runners.scripted import ScriptedRunner
from ravi.store.history import MainLine
from ravi.store.locks import Leader

Kind = Literal["foreground", "background", "service"]


class Hooks(NamedTuple):
    """What a backbone gets of the daemon that it belongs to. What it records, the loop sees by itself."""

    app: App
    say: Callable[[str], None]
    stop: Callable[[str], None]  # ends the daemon in order, with a reason; safe in any thread


class Backbone(Protocol):
    """What carries events, orders and documents beyond this workspace."""

    elsewhere: Elsewhere | None  # workers, where there may be some

    def start(self, hooks: Hooks) -> None:
        """Begin. We lead by now; the loop does not turn yet. Must not wait for a network."""

    def ring(self) -> None:
        """Something was recorded. Must be quick."""

    def status(self) -> dict[str, Any]:
        """`url`, `pid`, `connected`, `managed` and `said`; asked from any thread, and answered at once."""

    def close(self) -> None:
        """End. The loop has stopped, all ends are recorded, and we still lead."""


class NoBackbone:
    """Everything stays in this workspace."""

    elsewhere: Elsewhere | None = None

    def start(self, hooks: Hooks) -> None:
        """Do nothing."""

    def ring(self) -> None:
        """Do nothing."""

    def status(self) -> dict[str, Any]:
        """Say that it is off."""
        return {"url": None, "pid": None, "connected": False, "managed": False, "said": "off"}

    def close(self) -> None:
        """Do nothing."""


def up(
    app: App,
    *,
    until_idle: bool,
    timeout: float | None,
    say: Callable[[str], None],
    backbone: Backbone | None = None,
    ready: Callable[[], None] | None = None,
    kind: Kind = "foreground",
) -> dict[str, Any]:
    """Run the loop until idle, until the time is over, or until a signal or the control socket ends it.

    `ready` is called once: when we lead, the control socket answers, and everything has been looked at.
    Returns what came of it and the exit code: 0, 1 when a run died during the call, 3 when time was over, 75 when the
    service manager shall start it again. Raises Refused when another process leads this workspace.
    """
    app.permit_operator("up")
    gc.freeze()  # what is there by now stays
    gc.enable()
    sys.setswitchinterval(0.0005)  # while one thread writes out, the one that starts agents must not wait for its turn
    repository = app.repository
    backbone = backbone or NoBackbone()
    leader = Leader(repository.dirs.common_dir)
    since = stamp(app.now())
    leader.acquire(since)
    with ExitStack() as ending:  # last in, first out
        server = Server(app.root, repository.beside, app.environ)
        ending.callback(server.close)  # who waits for the end hears it when the workspace is free
        ending.callback(leader.release)
        processes = Processes()
        ending.callback(processes.close)
        repository.lead(f"pid {os.getpid()} on {socket.gethostname()}")
        repository.adopt()
        write_schemas(repository.private)
        clones = Clones(app, say)
        ending.callback(clones.close)
        clones.look()
        line = MainLine(repository)
        line.begin("engine")
        turns = _Turns(ready, Notifier(app.environ))
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
                elsewhere=backbone.elsewhere,
            ),
            lambda ring: Doorbell(app.root, ring),
            now=app.now,
            monotonic=clock,
            limits=_Limits(app, say, clones.follows),
            say=say,
            turned=turns,
            moved=backbone.ring,
        )
        front = _Front(app, loop, backbone, turns, since, kind)
        try:
            server.start({"status": front.status, "stop": front.stop_verb})
        except Unavailable as fault:
            if ready is not None:  # who waits for it wants to ask it things
                raise
            say(f"{fault}; `ravi daemon stop` and `status` have to do without")
        ending.callback(server.retire)  # before the lock is free: what lies there is ours until then
        ending.callback(backbone.close)
        backbone.start(Hooks(app, say, front.stop))
        with _signals(front.stop):
            if kind != "foreground":
                say(f"ravi {__version__}, process {os.getpid()}: watching {app.root}; `ravi daemon stop` ends it")
            elif not until_idle:
                say(f"watching {app.root}, main line {repository.branch.removeprefix('refs/heads/')}; Ctrl-C ends it")
            clones.start()
            turns.begin(server)
            outcome = loop.run(until_idle=until_idle, deadline=None if timeout is None else clock() + timeout)
    if outcome.timed_out and until_idle:
        raise TimedOut(f"not idle after {timeout:g}s", hint="`ravi status` says what goes on")
    said = ("idle" if until_idle else "ended") + ("; died: " + ", ".join(outcome.died) if outcome.died else "")
    return {
        "exit": AGAIN if front.again else 1 if outcome.died and until_idle else 0,
        "died": outcome.died,
        "held": outcome.held,
        "said": said + (f"; {outcome.held}" if outcome.held else ""),
    }


class _Turns:
    """What happens at every turn of the loop: the first one makes it ready, each one is a sign of life."""

    def __init__(self, ready: Callable[[], None] | None, notifier: Notifier) -> None:
        self.notifier = notifier
        self.is_ready = False
        self._ready = ready
        self._server: Server | None = None

    def begin(self, server: Server) -> None:
        """The next turn is the loop's first."""
        self._server = server

    def __call__(self) -> None:
        if self._server is None:
            return
        self._server.mend()
        self.notifier.alive(clock())
        if not self.is_ready:
            self.is_ready = True
            self.notifier.ready(f"ravi {__version__}")
            if self._ready is not None:
                self._ready()


class _Front:
    """The daemon as it is seen through the control socket."""

    def __init__(self, app: App, loop: Loop, backbone: Backbone, turns: _Turns, since: str, kind: Kind) -> None:
        self._app = app
        self._loop = loop
        self._backbone = backbone
        self._turns = turns
        self._since = since
        self._kind = kind
        self._name = app.settings.name  # now: the settings are the loop's to read again
        self._stopping = ""
        self.again = False  # whether the service manager shall start it again

    def stop(self, reason: str) -> None:
        """End soon, in order. Safe in a signal handler, and in any thread."""
        self._stopping = self._stopping or reason
        self._turns.notifier.stopping()
        self._loop.stop(reason)

    def status(self, _question: Mapping[str, Any]) -> dict[str, Any]:
        """How it is, from memory."""
        return {
            "running": True,
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "since": self._since,
            "kind": self._kind,
            "ready": self._turns.is_ready,
            "stopping": self._stopping,
            "follows": self._loop.limits.follows,
            "workspace": self._app.root,
            "name": self._name,
            "nats": self._backbone.status(),
            "omni": None,
            "runs": [self._run(run) for run in self._loop.runs()],
            "queue": self._loop.queue(),
        }

    def stop_verb(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """End soon; the line stays open until the workspace is free."""
        self.again = self.again or (question.get("again") is True and self._kind == "service")
        runs = [self._run(run) for run in self._loop.runs()]
        self.stop("ravi daemon " + ("restart" if question.get("again") else "stop"))
        return {"stopping": self._stopping, "runs": runs}

    def _run(self, run: Run) -> dict[str, Any]:
        note = self._app.repository.live(run.id)
        return {
            "id": run.id,
            "task": run.task,
            "agent": run.agent,
            "since": run.started,
            "pid": note.get("pid"),
            "progress": note.get("progress", ""),
        }


class _Limits:
    """The loop's limits as ravi.yaml says them by now: it is read again when it changes."""

    def __init__(self, app: App, say: Callable[[str], None], follows: Callable[[], str]) -> None:
        self._app = app
        self._say = say
        self._follows = follows
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
        if self._follows() != self._limits.follows:
            self._limits = self._read()
        return self._limits

    def _read(self) -> Limits:
        settings = self._app.settings
        return Limits(settings.max_runs, settings.max_depth, settings.quiet, settings.ingest == "auto", self._follows())


def _written(app: App) -> tuple[int, int]:
    try:
        said = os.stat(os.path.join(app.root, SETTINGS))
    except OSError:
        return (0, 0)
    return said.st_mtime_ns, said.st_ino


@contextmanager
def _signals(stop: Callable[[str], None]) -> Iterator[None]:
    """TERM, INT and HUP (a closed terminal) end the loop in order; a second INT ends the process at once."""

    def ask(number: int, _frame: object) -> None:
        stop(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
