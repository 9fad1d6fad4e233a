"""The keeper: a small program that starts agents and answers for all their descendants. It is run by path, alone.

One *server*, started by the daemon, does nothing but fork: a launch costs two forks of a small process and not one of
the daemon's. For every order it forks a *keeper*, which starts one agent and stays its parent:

- descendants that leave the agent's process group (`setsid`, a double fork, `nohup`) fall to the keeper, which is
  their subreaper; the run is over when the keeper has no child left, and not before;
- the control socket is the daemon's life: when it closes, everything is killed at once, so no orphan answers later;
- the kernel kills the agent when its keeper dies, and what is left then falls to the server, which kills it.

All this needs Linux. Elsewhere (macOS) only the agent's process group is ended: what left the group lives on.

An order is a length, a JSON object (`argv`, `cwd`, `env`) and four descriptors: stdin, stdout, stderr, control.
On the control socket the keeper says, a JSON object a line, `started`, `failed`, `exited`, `swept`, and obeys lines
`signal N` and `kill`.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

LENGTH = struct.Struct("!I")
LINUX = sys.platform == "linux"
PATIENCE = 10.0  # seconds of killing, after which what still lives (another user's, in the kernel) is told as `left`
_DEAF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED = {*_DEAF, *(n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN)}
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # prctl(2)
_LIBC = ctypes.CDLL(None) if LINUX else None


def serve(orders: socket.socket) -> None:
    """Fork a keeper for every order, until the daemon has hung up and the last keeper is done."""
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)  # a terminal's ^C is for the daemon, and the daemon's end is ours
    _prctl(_CHILD_SUBREAPER, 1)
    wake = _wake_on_children()
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    poll.register(wake, select.POLLIN)
    keepers: set[int] = set()
    listening, patience = True, 0.0  # until when strays are hunted; 0 when there are none
    while listening or keepers or patience:
        ready = {fd for fd, _ in poll.poll(5 if patience else None)}
        if wake in ready:
            _drain(wake)
        if _reap_keepers(keepers):
            patience = time.monotonic() + PATIENCE
        if patience and (not _kill(descendants(os.getpid(), but=keepers)) or time.monotonic() > patience):
            patience = 0.0
        if orders.fileno() in ready:
            order = _receive(orders)
            if order is None:
                poll.unregister(orders)
                listening = False
            else:
                _fork_keeper(order, keepers, (orders.fileno(), wake))


def _receive(orders: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next order and its descriptors; None when the daemon is gone, even in the middle of a word."""
    try:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        head, ancillary, _, _ = orders.recvmsg(LENGTH.size, socket.CMSG_SPACE(4 * 4), flags)
        fds = [fd for _, _, sent in ancillary for fd in struct.unpack(f"{len(sent) // 4}i", sent)]
        head += _exactly(orders, LENGTH.size - len(head)) if head else b""
        body = _exactly(orders, LENGTH.unpack(head)[0]) if head else b""
    except (ConnectionError, EOFError):
        return None
    if not body:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - it takes no keyword
    return body, fds


def _exactly(orders: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = orders.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _fork_keeper(order: tuple[bytes, list[int]], keepers: set[int], ours: tuple[int, ...]) -> None:
    body, fds = order
    try:
        pid = os.fork()
    except OSError as fault:
        _say(fds[3], failed=f"no process can be started: {os.strerror(fault.errno or 0)}")
    else:
        if pid == 0:
            code = 1
            try:
                for fd in ours:
                    os.close(fd)
                try:
                    keeper = Keeper(json.loads(body), fds)
                except OSError as fault:
                    _say(fds[3], failed=f"no process can be started: {os.strerror(fault.errno or 0)}")
                else:
                    keeper.keep()
                code = 0
            finally:
                os._exit(code)
        keepers.add(pid)
    for fd in fds:  # a copy of the control socket kept here would hide the end of the run from the daemon
        os.close(fd)


def _reap_keepers(keepers: set[int]) -> bool:
    """Bury what has died. True when a keeper was killed, or a stray of such a keeper died: there may be more strays."""
    strays = False
    while (found := _reap()) is not None and found[0]:
        pid, status = found
        strays |= pid not in keepers or status != 0
        keepers.discard(pid)
    return strays


class Keeper:
    """Starts the agent of one order and stays until it, and everything it started, is gone."""

    def __init__(self, order: dict[str, object], fds: list[int]) -> None:
        *streams, self.control = fds
        os.setsid()
        _prctl(_CHILD_SUBREAPER, 1)
        self.wake = _wake_on_children()
        self.agent, self.report = _start(order, streams)
        for fd in streams:
            os.close(fd)
        self.poll = select.poll()
        for fd in (self.control, self.report, self.wake):
            self.poll.register(fd, select.POLLIN)
        self.alive = True  # the agent itself; its descendants are known by our having children
        self.killing = False
        self.heard = b""
        self.owed = 0  # a signal that came before there was an agent to hear it

    def keep(self) -> None:
        """Obey the daemon until nobody is left, then say how many had to be killed after the agent's end."""
        pause, patience = 1, float("inf")
        along, survivors = set[int](), set[int]()  # whom our killing hit while the agent lived, and after its end
        while True:
            ready = {fd for fd, _ in self.poll.poll(pause if self.killing else None)}
            if self.wake in ready:
                _drain(self.wake)
            if self.report in ready:
                self._tell_start()
            if self.control in ready:
                self._obey()
            if self._bury():
                left = 0
                survivors |= set() if LINUX else _kill_group(self.agent) - along
                break
            if time.monotonic() > patience:
                left = len(descendants(os.getpid()))
                break
            if self.killing:
                patience = min(patience, time.monotonic() + PATIENCE)
                hit = _kill(descendants(os.getpid())) if LINUX else _kill_group(self.agent)
                if self.alive:
                    along |= hit
                else:
                    survivors |= hit - along
                pause = min(pause * 2, 50)
        _say(self.control, swept=len(survivors), left=left)

    def _tell_start(self) -> None:
        fault = os.read(self.report, 4096)  # exec closes it; what is said before that is why there was none
        self.poll.unregister(self.report)
        os.close(self.report)
        self.report = -1
        if fault:
            _say(self.control, failed=fault.decode())
        else:
            _say(self.control, started=self.agent, at=started_at(self.agent))
            if self.owed:
                _signal(self.agent, self.owed)

    def _obey(self) -> None:
        try:
            words = os.read(self.control, 4096)
        except ConnectionError:  # the daemon died with something of ours unread
            words = b""
        if not words:
            self.poll.unregister(self.control)
            self.killing = True
        *lines, self.heard = (self.heard + words).split(b"\n")
        for line in lines:
            verb, _, number = line.partition(b" ")
            if verb == b"kill":
                self.killing = True
            elif verb == b"signal" and self.report != -1:
                self.owed = int(number)
            elif verb == b"signal" and self.alive:
                _signal(self.agent, int(number))

    def _bury(self) -> bool:
        """Reap the dead. True when no child is left: above every living descendant stands a child of ours."""
        while (found := _reap()) is not None and found[0]:
            pid, status = found
            if pid == self.agent:
                if self.report != -1:
                    self._tell_start()
                self.alive, self.killing = False, True
                code = os.waitstatus_to_exitcode(status)
                _say(self.control, exited=max(code, 0), signal=max(-code, 0))
        return found is None


def _start(order: dict[str, object], streams: list[int]) -> tuple[int, int]:
    """Fork the agent. Gives its pid and a descriptor that tells why it could not be started, or closes when it was."""
    report, tell = os.pipe()
    keeper = os.getpid()
    agent = os.fork()
    if agent == 0:
        try:
            os.setpgid(0, 0)
            _prctl(_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:  # it died before the line above could see it
                os._exit(127)
            fault = _become(order, streams)
            os.write(tell, fault.encode("utf-8", "replace")[:4096])
        finally:
            os._exit(127)
    os.close(tell)
    with contextlib.suppress(OSError):  # it runs already, or is dead
        os.setpgid(agent, agent)  # as the child does: whoever is first, a signal to the group finds it
    return agent, report


def _become(order: dict[str, object], streams: list[int]) -> str:
    """Become the agent. Comes back only when that failed, with the reason in words."""
    argv, cwd, env = order["argv"], order["cwd"], order["env"]
    assert isinstance(argv, list)
    assert isinstance(cwd, str)
    assert isinstance(env, dict)
    for number in _IGNORED:  # ours and Python's; exec would hand them on
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for target, fd in enumerate(streams):
        os.dup2(fd, target)  # everything else is closed by exec
    try:
        os.chdir(cwd)
    except OSError as fault:
        return f"cannot work in {cwd}: {os.strerror(fault.errno or 0)}"
    try:
        return _exec(argv, env)
    except ValueError as fault:
        return f"cannot start `{argv[0]}`: {fault}"  # a NUL, or `=` in a variable's name


def _exec(argv: list[str], env: dict[str, str]) -> str:
    program = argv[0]
    if "/" in program:
        places = [program]
    else:
        # An empty entry means the current directory, where the agent's own files lie: never a program's place.
        places = [f"{place}/{program}" for place in env.get("PATH", os.defpath).split(":") if place and program]
    denied = ""
    for place in places:
        try:
            os.execve(place, argv, env)  # noqa: S606 - starting programs is what this one is for
        except OSError as fault:
            if fault.errno == errno.ENOENT and os.path.lexists(place):
                return f"`{place}` cannot run: the interpreter named in its first line is missing"
            if fault.errno == errno.ENOEXEC:
                return f"`{place}` is not a program: it has no `#!` line"
            if fault.errno == errno.EACCES:
                denied = denied or place
            elif fault.errno not in (errno.ENOENT, errno.ENOTDIR):
                return f"cannot start `{place}`: {os.strerror(fault.errno or 0)}"
    if denied:
        return f"`{denied}` is not executable"
    return f"no program at `{program}`" if "/" in program else f"no program `{program}` on the agent's PATH"


def descendants(root: int, but: set[int] | frozenset[int] = frozenset()) -> set[int]:
    """Pids of all living descendants of `root`, without those in `but` and theirs. Empty where /proc is missing."""
    children: dict[int, list[int]] = {}
    living: set[int] = set()
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit() and (stat := _stat(name)):
            children.setdefault(int(stat[1]), []).append(int(name))
            if stat[0] not in b"ZX":
                living.add(int(name))
    found: set[int] = set()
    queue = [root]
    while queue:
        fresh = [pid for pid in children.get(queue.pop(), ()) if pid not in found and pid not in but]
        found.update(fresh)
        queue += fresh
    return found & living


def started_at(pid: int) -> int:
    """When `pid` started, in ticks since boot: with the pid it names a process for good. 0 when unknown."""
    stat = _stat(str(pid))
    return int(stat[19]) if stat else 0


def parent_of(pid: int) -> int:
    """The parent of `pid`; 0 when it has none, is gone, or cannot be seen."""
    stat = _stat(str(pid))
    return int(stat[1]) if stat else 0


def _stat(pid: str) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything, brackets too."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return []
    try:
        return os.read(fd, 1024).rpartition(b")")[2].split()
    except OSError:  # gone between the two
        return []
    finally:
        os.close(fd)


def _kill(pids: set[int]) -> set[int]:
    hit = set()
    for pid in pids:
        # Another user's (sudo) is not ours to end; the count of those `left` tells.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            hit.add(pid)
    return hit


def _kill_group(agent: int) -> set[int]:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(agent, signal.SIGKILL)
        return {-agent}
    return set()


def _signal(agent: int, number: int) -> None:
    """Tell the agent's group, and what has left it: CLIs give their tools sessions of their own."""
    others = descendants(os.getpid())
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(agent, number)
    for pid in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != agent:
                os.kill(pid, number)


def _reap() -> tuple[int, int] | None:
    """A child that has died and how; pid 0 when none has yet; None when there is no child at all."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None


def _wake_on_children() -> int:
    """A descriptor that becomes readable when a child dies."""
    wake, ring = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(ring, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    return wake


def _drain(wake: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(wake, 4096)


def _say(control: int, **words: object) -> None:
    with contextlib.suppress(OSError):  # the daemon is gone; the end of the socket says the same
        os.write(control, json.dumps(words).encode() + b"\n")


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
