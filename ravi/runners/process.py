"""Child processes of runs: started through the keeper, fed, heard, limited, and ended with all their descendants."""

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ravi.errors import Unavailable
from ravi.runners import keeper
from ravi.runners.base import Order, Stop
from ravi.runners.log import Log, Words

_CHUNK = 64 * 1024
_ANSWER = 2 * keeper.PATIENCE  # seconds the keeper may take over killing before it is given up


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended. `error` says why there was none, or why nobody saw its end."""

    code: int | None = None
    signal: int = 0
    timed_out: bool = False
    stopped: str = ""  # who asked it to stop, if that is what ended it
    survivors: int = 0  # descendants that were alive after its end, and were killed
    left: int = 0  # those that could not be killed (another user's)
    error: str = ""
    complaint: str = ""  # its last words on stderr


class Processes:
    """Starts the children of runs. One fork server serves them all; it is started when needed and again when it died.

    Every method may be called from any thread; `run` blocks the thread that calls it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the fork server now, so that the first run need not wait for it."""
        with self._lock:
            self._ready()

    def close(self) -> None:
        """End the fork server once the runs under way have ended; they are not ended by this."""
        with self._lock:
            self._hang_up()

    def run(
        self,
        order: Order,
        on_output: Callable[[bytes], None],
        on_started: Callable[[int, int], None],
        on_stop: Callable[[Stop], None],
        *,
        log: Log | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> Exit:
        """Run `order.command` with `order.prompt` on stdin; come back when it and all its descendants are gone.

        `on_output` hears stdout, `on_started` the pid and its start time. Both streams go to `log` as they come, by
        default one at `order.log`. What a callback raises ends the run first.
        """
        with contextlib.ExitStack() as stack:
            log = log or stack.enter_context(contextlib.closing(Log(order.log, order.limit)))
            try:
                stopper = stack.enter_context(contextlib.closing(_Stopper()))
                attempt = _Attempt(
                    order, stopper, log, on_output=on_output, on_started=on_started, stop_signal=stop_signal
                )
            except OSError as fault:
                return Exit(error=f"nothing can be started: {fault.strerror}")
            stack.enter_context(contextlib.closing(attempt))
            on_stop(stopper)
            if stopper.reason:
                return Exit(stopped=stopper.reason)
            try:
                attempt.launch(self._send)
            except Unavailable as fault:
                return Exit(error=fault.message)
            try:
                return attempt.follow()
            except BaseException:
                attempt.abandon()
                raise

    def _send(self, order: bytes, fds: list[int]) -> None:
        """Hand an order to the server. A server that died meanwhile has started nothing, so a second one is asked."""
        with self._lock:
            try:
                self._hand_over(order, fds)
            except OSError:
                self._hang_up(kill=True)
                try:
                    self._hand_over(order, fds)
                except OSError as fault:
                    self._hang_up(kill=True)
                    raise Unavailable(f"the keeper does not take orders: {fault}") from fault

    def _hand_over(self, order: bytes, fds: list[int]) -> None:
        orders = self._ready()
        message = keeper.LENGTH.pack(len(order)) + order
        sent = socket.send_fds(orders, [message], fds)
        orders.sendall(memoryview(message)[sent:])

    def _ready(self) -> socket.socket:
        if self._orders is not None and self._server is not None and self._server.poll() is None:
            return self._orders
        self._hang_up()
        ours, theirs = socket.socketpair()
        ours.settimeout(_ANSWER)
        command = [sys.executable, "-I", "-S", "-X", "utf8", keeper.__file__, str(theirs.fileno())]
        try:
            # Nothing is inherited: what the daemon knows must not lie in the environment of a parent of agents.
            self._server = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as fault:
            ours.close()
            raise Unavailable(f"the keeper cannot be started: {fault.strerror}") from fault
        finally:
            theirs.close()
        self._orders = ours
        return ours

    def _hang_up(self, *, kill: bool = False) -> None:
        """Let the server go. It leaves when its last keeper has. One that hears nothing is killed: keepers live on."""
        orders, server = self._orders, self._server
        self._orders = self._server = None
        if orders is not None:
            orders.close()
        if server is not None:
            if kill:
                server.kill()
            try:
                server.wait(0.5)
            except subprocess.TimeoutExpired:  # runs are under way
                threading.Thread(target=server.wait, daemon=True).start()


class _Stopper:
    """The Stop of one run: remembers the first reason and wakes the thread that follows the run."""

    def __init__(self) -> None:
        self.reason = ""
        self._lock = threading.Lock()
        self.wake, self._ring = os.pipe()

    def __call__(self, reason: str) -> None:
        with self._lock:
            if not self.reason and self._ring != -1:
                self.reason = reason or "stopped"
                os.write(self._ring, b"!")

    def close(self) -> None:
        with self._lock:
            os.close(self.wake)
            os.close(self._ring)
            self._ring = -1


class _Attempt:
    """One child and its keeper, seen from the daemon: four streams and a clock, in one loop."""

    def __init__(
        self,
        order: Order,
        stopper: _Stopper,
        log: Log,
        *,
        on_output: Callable[[bytes], None],
        on_started: Callable[[int, int], None],
        stop_signal: int,
    ) -> None:
        self.order, self.stopper, self.log = order, stopper, log
        self.on_output, self.on_started, self.stop_signal = on_output, on_started, stop_signal
        self.control, self._theirs = socket.socketpair()  # first: it is what may fail
        self.control.settimeout(0)
        self.complaint = Words(2 * 1024)
        self.prompt = memoryview(order.prompt.encode("utf-8", "replace"))
        self.poll = select.poll()
        self.steps: dict[int, Callable[[int], None]] = {}  # open descriptors of ours, and what to do when one is ready
        self.heard = b""
        self.started = self.ended = False
        self.timed_out, self.stopped = False, ""
        self.due: tuple[float, Callable[[], None]] = (math.inf, self._time_out)  # what comes next, and when
        self.code: int | None = None
        self.signal = self.survivors = self.left = 0
        self.error = ""

    def launch(self, send: Callable[[bytes, list[int]], None]) -> None:
        """Ask for the child. From here on the control socket is what keeps it alive."""
        order = self.order
        if not order.command:
            raise Unavailable("the agent has no command")
        words = {"argv": order.command, "cwd": os.fspath(order.cwd), "env": dict(order.env)}
        with self._theirs, contextlib.ExitStack() as theirs:
            try:
                if self.prompt:
                    stdin, feed = os.pipe()
                    self._mind(feed, self._feed)
                    self.poll.register(feed, select.POLLOUT)
                else:
                    stdin = os.open(os.devnull, os.O_RDONLY)
                theirs.callback(os.close, stdin)
                fds = [stdin]
                for step in (self._hear_output, self._hear_complaint):
                    ours, write = os.pipe()
                    self._mind(ours, step)
                    theirs.callback(os.close, write)
                    fds.append(write)
            except OSError as fault:
                raise Unavailable(f"cannot start `{order.command[0]}`: {fault.strerror}") from fault
            send(json.dumps(words).encode(), [*fds, self._theirs.fileno()])
        self.due = (time.monotonic() + order.timeout, self._time_out)
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(self.stopper.wake, select.POLLIN)

    def follow(self) -> Exit:
        """Feed, listen and keep time until the keeper says that nobody is left."""
        while not self.ended:
            when = self.due[0] - time.monotonic()
            # Not beyond a day: poll counts milliseconds in a C int.
            ready = [fd for fd, _ in self.poll.poll(min(max(math.ceil(when * 1000), 0), 86_400_000) if when > 0 else 0)]
            for fd in ready:
                if fd in self.steps:
                    self.steps[fd](fd)
            if self.stopper.wake in ready:
                self.poll.unregister(self.stopper.wake)
                if self.due[1] == self._time_out:
                    self.stopped = self.stopper.reason
                    self._terminate()
            if self.control.fileno() in ready:
                self._listen()
            if time.monotonic() >= self.due[0]:
                self.due[1]()
        for fd, step in tuple(self.steps.items()):
            for _ in range(32):  # what still lies in a pipe; somebody outside the run may hold it open for ever
                if self.started and fd in self.steps and step != self._feed:
                    step(fd)
        if self.left:
            self.log.write(f"\n[ravi: {self.left} processes of this run could not be killed]\n".encode())
        return Exit(
            code=self.code,
            signal=self.signal,
            timed_out=self.timed_out,
            stopped=self.stopped,
            survivors=self.survivors,
            left=self.left,
            error=self.error,
            complaint=self.complaint.text(),
        )

    def abandon(self) -> None:
        """End the child after a fault of ours, and wait until it is gone."""
        self.on_started = lambda *_: None
        self._kill()
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while not self.ended and poll.poll(max(self.due[0] - time.monotonic(), 0) * 1000):
            self._listen()

    def close(self) -> None:
        """Let go of every descriptor. A child that still lived would be killed by that."""
        for fd in tuple(self.steps):
            self._leave(fd)
        self.control.close()
        self._theirs.close()

    def _mind(self, fd: int, step: Callable[[int], None]) -> None:
        os.set_blocking(fd, False)
        self.steps[fd] = step

    def _leave(self, fd: int) -> None:
        del self.steps[fd]
        with contextlib.suppress(KeyError):
            self.poll.unregister(fd)
        os.close(fd)

    def _feed(self, fd: int) -> None:
        try:
            self.prompt = self.prompt[os.write(fd, self.prompt[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to read its prompt
            self.prompt = memoryview(b"")
        if not self.prompt:
            self._leave(fd)

    def _hear_output(self, fd: int) -> None:
        if data := self._read(fd):
            self.log.write(data)
            self.on_output(data)

    def _hear_complaint(self, fd: int) -> None:
        if data := self._read(fd):
            self.log.write(data)
            self.complaint.add(data)

    def _read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            self._leave(fd)
        return data

    def _listen(self) -> None:
        """Hear the keeper. When it falls silent before its last word it was killed, and its agent with it."""
        try:
            data = self.control.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            self.survivors = sweep(self.order.run, self.order.env.get("RAVI_WORKSPACE", ""))
            if self.code is None and not self.signal:
                self.error = "the keeper of the run was killed"
            return
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            if not self.ended:  # what follows `failed` is only the end of a process that never became the agent
                self._take(json.loads(line))

    def _take(self, words: dict[str, int | str]) -> None:
        match words:
            case {"failed": str(reason)}:
                self.error = reason
                self.ended = True
            case {"started": int(pid), "at": int(moment)}:
                self.on_started(pid, moment)
                for fd, step in self.steps.items():  # nothing is heard before the start is told
                    if step != self._feed:
                        self.poll.register(fd, select.POLLIN)
                self.started = True
            case {"exited": int(code), "signal": int(number)}:
                self.code, self.signal = (None, number) if number else (code, 0)
                self.due = (time.monotonic() + _ANSWER, self._give_up)
            case {"swept": int(survivors), "left": int(left)}:
                self.survivors, self.left = survivors, left
                self.ended = True

    def _time_out(self) -> None:
        self.timed_out = True
        self._terminate()

    def _terminate(self) -> None:
        self._say(f"signal {self.stop_signal}")
        self.due = (time.monotonic() + self.order.grace, self._kill)

    def _kill(self) -> None:
        self._say("kill")
        self.due = (time.monotonic() + _ANSWER, self._give_up)

    def _give_up(self) -> None:
        self.survivors = sweep(self.order.run, self.order.env.get("RAVI_WORKSPACE", ""))
        self.error = "the keeper of the run does not answer"
        self.ended = True

    def _say(self, words: str) -> None:
        with contextlib.suppress(OSError):  # it is dead, which its end of the socket tells too
            self.control.send(words.encode() + b"\n")


def sweep(run: str, workspace: str) -> int:
    """Kill whatever has this `RAVI_RUN` and `RAVI_WORKSPACE` in its environment; how many. (A copy of a workspace
    has runs of the same names.) For what a killed keeper left behind.

    It finds processes of our own user that kept their environment. Linux only: elsewhere it finds nothing.
    """
    wanted = (os.fsencode(run), os.fsencode(workspace))
    found = _sweep(lambda env: run if (env.get(b"RAVI_RUN"), env.get(b"RAVI_WORKSPACE")) == wanted else "")
    return found.get(run, 0)


def sweep_all(known: Collection[str], workspace: str) -> dict[str, int]:
    """Kill what runs of `workspace` left behind, but for runs in `known`, which are watched over; how many by run.

    For a start after an unclean end. It has the limits of `sweep`.
    """
    home = os.fsencode(workspace)

    def whose(environ: Mapping[bytes, bytes]) -> str:
        run = os.fsdecode(environ.get(b"RAVI_RUN", b""))
        return run if environ.get(b"RAVI_WORKSPACE") == home and run not in known else ""

    return _sweep(whose)


def _sweep(whose: Callable[[Mapping[bytes, bytes]], str]) -> dict[str, int]:
    """Kill every process that `whose` gives a run's name for, with its descendants, until a look finds none."""
    killed: dict[int, str] = {}
    until = time.monotonic() + keeper.PATIENCE
    while time.monotonic() < until:
        found = {pid: run for pid, environ in _environments() if (run := whose(environ))}
        if not found:
            break
        for pid, run in found.items():
            for other in {pid} | keeper.descendants(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(other, signal.SIGKILL)  # it keeps its environment until it obeys, then is not found again
                    killed[other] = run
    counts: dict[str, int] = {}
    for run in killed.values():
        counts[run] = counts.get(run, 0) + 1
    return counts


def _environments() -> Iterator[tuple[int, Mapping[bytes, bytes]]]:
    """Our user's processes and their environments, but for this process and those it descends from."""
    spared = {0, os.getpid()}
    pid = os.getppid()
    while pid not in spared:
        spared.add(pid)
        pid = keeper.parent_of(pid)
    for name in os.listdir("/proc") if keeper.LINUX else ():
        with contextlib.suppress(OSError):  # gone meanwhile, or not to be read
            if name.isdigit() and int(name) not in spared and os.stat(f"/proc/{name}").st_uid == os.getuid():
                with open(f"/proc/{name}/environ", "rb") as file:
                    pairs = (pair.partition(b"=") for pair in file.read().split(b"\0"))
                    yield int(name), {key: value for key, _, value in pairs}
