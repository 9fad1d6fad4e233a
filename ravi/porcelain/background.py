"""The daemon in the background: started, asked to end, started again, asked how it is."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ravi import __version__
from ravi.app import App, clock
from ravi.errors import RaviError, Refused, TimedOut, Unavailable
from ravi.porcelain import control
from ravi.porcelain.daemon_log import DaemonLog, last_lines, lines, open_log
from ravi.store.locks import Holder, Leader

START_TIME = 60.0  # seconds for a daemon to lead, to answer, and to have looked once
_STEP = 0.02  # seconds between looks at a lock whose holder gives no sign when it ends
_KILLED = 5.0  # seconds for the system to end a killed process
_OTHERS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})  # its words are for who started the starter
_WORDS = 10  # lines of the log that are told when a start fails without words


def start(app: App) -> dict[str, Any]:
    """Start a daemon and come back when it leads, answers and has looked at everything once: its status.

    Raises Refused naming the holder when one runs, the daemon's own fault when it cannot start, TimedOut when it is not
    ready yet; then it goes on trying.
    """
    app.permit_operator("daemon start")
    if holder := _leader(app).holder():
        who = holder if holder.pid else "another process"
        raise Refused(f"this workspace is led by {who}", hint="see `ravi daemon status`; `ravi daemon restart`")
    path = log_path(app)
    heard, says = os.pipe()
    try:
        process = _spawn(app, path, says)
    finally:
        os.close(says)
    with open(heard, "rb", buffering=0) as pipe:
        ready, _, _ = select.select([pipe], [], [], START_TIME)
        if not ready:
            raise TimedOut(
                f"process {process.pid} is not ready after {START_TIME:g}s; it goes on", hint="see `ravi daemon logs`"
            )
        words = pipe.readline()
    if not words:
        code = process.wait()
        said = "".join(f"\n  {line}" for line in last_lines(path, _WORDS))
        raise RaviError(f"the daemon ended with {code} before it was ready; {path} ends with:{said}")
    told = json.loads(words)
    if "error" in told:
        process.wait()
        raise control.fault_of(told)
    return status(app)


def run(app: App, *, ready: int | None) -> int:
    """Be the daemon: `ready` is the descriptor of who waits for it; None below a service manager."""
    teller = _Teller(ready)
    with teller.faults():
        log = DaemonLog(log_path(app), app.now)
        try:
            from ravi.porcelain.backbone import backbone_of
            from ravi.porcelain.daemon import up

            told = up(
                app,
                until_idle=False,
                timeout=None,
                say=log.say,
                backbone=backbone_of(app),
                ready=lambda: teller.tell({"pid": os.getpid()}),
                kind="background" if ready is not None else "service",
            )
        except BaseException as fault:
            if not log.is_stderr():  # there it is told anyway
                log.say(f"ended: {fault}" if isinstance(fault, RaviError) else f"ended: {fault!r}")
            raise
        log.say(told["said"])
        return int(told["exit"])


def stop(app: App, *, timeout: float, force: bool) -> dict[str, Any]:
    """Ask the daemon, in the background or in a terminal, to end, and wait until it has.

    Running agents are stopped, their ends recorded and written out; they run again at the next start. What is still
    alive after `timeout` seconds is killed with `force`, else named in the TimedOut that is raised.
    """
    app.permit_operator("daemon stop")
    leader = _leader(app)
    holder = leader.holder()
    if holder is None:
        return {"running": False, "stopped": False, "pid": None, "forced": False, "interrupted": [], "said": _NOTHING}
    _refuse_elsewhere(holder)
    deadline = clock() + timeout
    pid, has_ended, runs = _end(app, holder, deadline, again=False)
    if not has_ended:
        said = "; ".join([f"process {pid}", *map(_run_line, runs)])
        if not force:
            raise TimedOut(
                f"still alive after {timeout:g}s: {said}",
                hint="it goes on ending; `ravi daemon stop --force` kills it, and what it ran is run again",
            )
        _signal(pid, signal.SIGKILL)
        if not _freed(leader, clock() + _KILLED):
            raise TimedOut(f"process {pid} was killed and is still there", hint="the system is stuck, a disk perhaps")
    return {
        "running": False,
        "stopped": True,
        "pid": pid,
        "forced": not has_ended,
        "interrupted": _interrupted(app, runs),
        "said": f"process {pid} " + ("was killed" if not has_ended else "has ended"),
    }


def restart(app: App, *, timeout: float, force: bool) -> dict[str, Any]:
    """`stop`, then `start`; a service is started again by its manager. The new daemon's status."""
    app.permit_operator("daemon restart")
    holder = _leader(app).holder()
    was = _asked(app) if holder else {}
    if holder is None or was.get("kind") != "service":
        if was.get("kind") == "foreground":
            raise Refused(
                f"`ravi up` runs in a terminal: {holder}", hint="end it there, or `ravi daemon stop`, then `start`"
            )
        stop(app, timeout=timeout, force=force)
        return start(app)
    pid, has_ended, _ = _end(app, holder, clock() + timeout, again=True)
    if not has_ended:
        if not force:
            raise TimedOut(f"still alive after {timeout:g}s: process {pid}", hint="`ravi daemon restart --force`")
        _signal(pid, signal.SIGKILL)  # a failure to its manager, who starts it again
    end = clock() + START_TIME
    while clock() < end:
        if (told := _asked(app)).get("answers") and told["pid"] != pid and told["ready"]:
            return status(app)
        time.sleep(_STEP * 5)
    raise TimedOut(f"process {pid} ended, and its manager has not started another in {START_TIME:g}s")


def status(app: App) -> dict[str, Any]:
    """Whether a daemon runs, where, since when, and what it says of itself. What a dead one left is not believed."""
    holder = _leader(app).holder()
    told: dict[str, Any] = {
        "running": holder is not None,
        "answers": False,
        "fault": "",
        "pid": holder.pid if holder else None,
        "host": holder.host if holder else None,
        "since": holder.since if holder else None,
        "version": None,
        "kind": None,
        "workspace": app.root,
        "log": log_path(app),
        "nats": None,
        "omni": None,
        "agents": [],
        "runs": [],
        "queue": {"ready": 0, "waiting": 0},
        "here": __version__,
    }
    if holder:
        told |= _asked(app)
    with contextlib.suppress(RaviError), app.view() as view:  # a workspace in disorder still has a daemon
        told["agents"] = [agent.name for agent in view.agents()]
    return told


def logs(app: App, *, count: int, follow: bool) -> Iterator[str]:
    """The last lines of the log; with `follow` those to come too."""
    app.permit_operator("daemon logs")
    return lines(log_path(app), count, follow=follow)


def log_path(app: App) -> str:
    """Where the log lies."""
    return os.path.join(app.repository.private, "logs", "daemon.log")


_NOTHING = "no daemon runs"


class _Teller:
    """The pipe to who waits for the start; silent without one, and after the first word."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)  # noqa: FBT003 - the system's own signature

    def tell(self, words: dict[str, Any]) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # whoever waited gave up; the daemon goes on
                os.write(fd, json.dumps(words).encode() + b"\n")
            os.close(fd)

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Tell the fault that comes out of this block, and let it pass."""
        try:
            yield
        except RaviError as fault:
            self.tell(control.told(fault))
            raise
        except OSError as fault:
            self.tell(control.told(Unavailable(f"{fault.filename or 'the system'}: {fault.strerror or fault}")))
            raise


def _spawn(app: App, path: str, says: int) -> "subprocess.Popen[bytes]":
    """The daemon's process: its own session, no stdin, stdout and stderr in the log."""
    try:
        log = open_log(path)
    except OSError as fault:
        raise Unavailable(
            f"{fault.filename or path}: the log cannot be written: {fault.strerror}", hint="make it writable"
        ) from fault
    words = ["--workspace", app.root, "daemon", "run", "--ready", str(says)]
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ravi", *words],  # -P: what lies in the workspace is not to be imported
            cwd=app.root,
            env={name: value for name, value in app.environ.items() if name not in _OTHERS},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[says],
            start_new_session=True,
        )
    finally:
        os.close(log)


def _leader(app: App) -> Leader:
    return Leader(app.repository.dirs.common_dir)


def _asked(app: App) -> dict[str, Any]:
    """What the daemon says of itself; what is wrong when it says nothing."""
    try:
        return {**control.ask(app.repository.beside, "status"), "answers": True}
    except RaviError as fault:
        return {"answers": False, "fault": str(fault)}


def _end(app: App, holder: Holder, deadline: float, *, again: bool) -> tuple[int, bool, list[dict[str, Any]]]:
    """Ask for the end and wait for it: the process, whether it has ended, and the runs that it had."""
    leader = _leader(app)
    pid, runs = holder.pid, []
    try:
        with control.connected(app.repository.beside) as line:
            pid = line.pid
            told = line.ask("stop", min(2.0, deadline - clock()), again=again)
            runs = list(told.get("runs", ()))
            if not line.wait(deadline - clock()):
                return pid, False, list(_asked(app).get("runs", runs))
    except (Unavailable, TimedOut):  # it has no socket, or is stopped: a signal waits for it
        if not leader.holder():
            return pid, True, runs
        if not _leads(pid, leader):
            raise
        _signal(pid, signal.SIGTERM)
    return pid, _freed(leader, max(deadline, clock() + _STEP)), runs


def _interrupted(app: App, runs: list[dict[str, Any]]) -> list[str]:
    """Those of the runs that did not come to their own end; all, where that is not recorded yet."""
    with contextlib.suppress(RaviError), app.view() as view:
        known = {run["id"]: view.run(run["id"]) for run in runs}
        return [id for id, run in known.items() if run is None or run.status in ("running", "interrupted")]
    return [run["id"] for run in runs]


def _freed(leader: Leader, deadline: float) -> bool:
    """Wait for a lock whose holder gives no other sign."""
    while leader.holder():
        if clock() >= deadline:
            return False
        time.sleep(_STEP)
    return True


def _leads(pid: int, leader: Leader) -> bool:
    """True when that process has the lock's file open. Where the system does not tell, its own note is believed."""
    if not os.path.isdir("/proc/self/fd"):
        return pid > 0
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.path.samefile(os.path.join(folder, name), leader.path) for name in _names(folder))
    except OSError:
        return False


def _names(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        if os.path.exists(os.path.join(folder, name)):
            yield name


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _refuse_elsewhere(holder: Holder) -> None:
    if holder.host and holder.host != os.uname().nodename:
        raise Refused(f"this workspace is led by {holder}", hint=f"ask for its end on {holder.host}")


def _run_line(run: dict[str, Any]) -> str:
    return f"run {run['id']}" + (f" (process {run['pid']})" if run.get("pid") else "")
