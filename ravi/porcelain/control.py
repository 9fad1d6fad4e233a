"""The control socket of a daemon: a line of JSON asks, a line of JSON answers; its server, and its client.

Where it is stands in `.git/ravi/control`. That note alone proves nothing: who asks looks first whether the leader's
lock is held, and the kernel says which process is at the other end, and whose it is.
"""

import contextlib
import json
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ravi import __version__
from ravi.errors import RaviError, Refused, TimedOut, Unavailable, UsageError

if TYPE_CHECKING:  # takes 8 ms to import; where no daemon runs nobody needs it
    import socket

Verb = Callable[[Mapping[str, Any]], Mapping[str, Any]]

LONGEST = 100  # bytes in the path of a socket; the system takes 104 to 108
_LINE = 1 << 20  # bytes in a question or an answer
_PATIENCE = 5.0  # seconds for a client to ask its question
_CLIENTS = 32  # at once


class Server:
    """The daemon's end. Every client has a thread of its own, so that a slow one holds up nobody.

    A verb gets the words of the question and returns those of the answer; it runs in a thread of the server's.
    """

    def __init__(self, root: str, beside: str, environ: Mapping[str, str]) -> None:
        self.path = ""
        self._root = root
        self._beside = beside
        self._environ = environ
        self._verbs: Mapping[str, Verb] = {}
        self._listener: socket.socket | None = None
        self._inode = [0, 0]
        self._clients: set[socket.socket] = set()
        self._room = threading.BoundedSemaphore(_CLIENTS)

    def start(self, verbs: Mapping[str, Verb]) -> None:
        """Listen, and write down where. The caller leads the workspace, so what lies there is a dead one's.

        Raises Unavailable when there is no place for a socket.
        """
        import socket

        path = place(self._root, self._environ)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)  # its folder keeps others out already
            listener.listen(_CLIENTS)
            self._inode = _inode(path)
            note = _note(self._beside)
            with open(f"{note}.part", "w", encoding="utf-8") as file:
                file.write(path)
            os.replace(f"{note}.part", note)
        except OSError as fault:
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise Unavailable(f"{path}: no control socket: {fault.strerror or fault}") from fault
        self.path, self._listener, self._verbs = path, listener, verbs
        threading.Thread(target=self._accept, args=(listener,), name="ravi-control", daemon=True).start()

    def mend(self) -> None:
        """Make the socket again when somebody removed it, as a system does with its folder at the end of a session."""
        if not self._verbs or _is_there(self.path, self._inode):
            return
        self._hang_up()
        with contextlib.suppress(Unavailable):  # the next turn tries again
            self.start(self._verbs)

    def retire(self) -> None:
        """Take no more questions. Whoever asked for the end goes on listening for it."""
        if not self._verbs:
            return
        self._verbs = {}
        for path in (self.path, _note(self._beside)) if _is_there(self.path, self._inode) else ():
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._hang_up()

    def close(self) -> None:
        """Let go of every client: for one that waits for the end, this is the end."""
        self.retire()
        for client in list(self._clients):
            _shut(client)

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)  # closing alone does not wake who accepts
            listener.close()

    def _accept(self, listener: "socket.socket") -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                if self._listener is not listener:
                    return
                time.sleep(0.1)  # no descriptors are free; some will be
                continue
            self._room.acquire()
            threading.Thread(target=self._serve, args=(client,), name="ravi-control-client", daemon=True).start()

    def _serve(self, client: "socket.socket") -> None:
        self._clients.add(client)
        try:
            client.settimeout(_PATIENCE)
            _, uid = peer(client)
            if uid not in (os.getuid(), 0):
                return
            answer = self._answer(_read(client))
            client.sendall(json.dumps({"version": __version__, **answer}).encode() + b"\n")
            client.settimeout(None)
            client.recv(1)  # until the client leaves, or we do
        except (OSError, ValueError):
            pass  # it left, or makes no sense
        finally:
            self._clients.discard(client)
            client.close()
            self._room.release()

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            words = json.loads(line)
            verb = self._verbs.get(str(words["verb"]))
        except (ValueError, KeyError, TypeError):
            return told(UsageError("a question is one line of JSON: {\"verb\": …}"))  # fmt: skip
        if words.get("beside", _inode(self._beside)) != _inode(self._beside):
            return told(Refused(f"the control socket is that of another workspace, {self._root}"))
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            return told(UsageError(f"this daemon (ravi {__version__}) does not know `{words['verb']}`, only {known}"))
        try:
            return verb(words)
        except RaviError as fault:
            return told(fault)
        except Exception as fault:  # noqa: BLE001 - a question must not end the daemon
            return told(RaviError(f"{words['verb']}: {fault!r}"))


class Line:
    """A client's end. `pid` is who listens there, as the kernel says."""

    def __init__(self, connection: "socket.socket", pid: int, beside: str) -> None:
        self.pid = pid
        self._beside = beside
        self._connection = connection

    def ask(self, verb: str, timeout: float, **words: Any) -> dict[str, Any]:
        """Ask one question. Raises the fault that is answered; TimedOut when nothing is, Unavailable when it left."""
        self._connection.settimeout(max(timeout, 0.001))
        # a workspace that was copied while a daemon ran has the note of the original's
        question = {"verb": verb, "version": __version__, "beside": _inode(self._beside), **words}
        try:
            self._connection.sendall(json.dumps(question).encode() + b"\n")
            answer = json.loads(_read(self._connection))
        except TimeoutError:
            raise TimedOut(f"process {self.pid} leads this workspace and does not answer") from None
        except (OSError, ValueError) as fault:
            raise Unavailable(f"process {self.pid} left before it answered `{verb}`") from fault
        if "error" in answer:
            raise fault_of(answer)
        return dict(answer)

    def wait(self, timeout: float) -> bool:
        """Wait for the other end to leave; False when it is still there."""
        self._connection.settimeout(max(timeout, 0.001))
        try:
            return not self._connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True


@contextlib.contextmanager
def connected(beside: str, timeout: float = 2.0) -> Iterator[Line]:
    """A line to the daemon whose note lies in `beside`. Raises Unavailable when nobody listens.

    Only worth calling while the leader's lock is held.
    """
    import socket

    try:
        with open(_note(beside), encoding="utf-8") as file:
            path = file.read()
    except OSError:
        raise Unavailable("the process that leads this workspace has no control socket") from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            pid, uid = peer(connection)
        except OSError as fault:
            raise Unavailable(f"{path}: nobody answers on the control socket: {fault}") from None
        if os.getuid() not in (uid, 0):
            raise Refused(f"{path}: the control socket belongs to user {uid}")
        yield Line(connection, pid, beside)


def ask(beside: str, verb: str, *, timeout: float = 2.0, **words: Any) -> dict[str, Any]:
    """One question to the daemon, and its answer. Raises as `Line.ask` and `connected` do."""
    with connected(beside, timeout) as line:
        return {**line.ask(verb, timeout, **words), "pid": line.pid}


def place(root: str, environ: Mapping[str, str]) -> str:
    """The path of a workspace's socket, in a folder that nobody else can enter. Its length does not grow with `root`'s.

    Raises Unavailable when there is no such folder.
    """
    import hashlib

    name = f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]}.sock"
    folders = [f"/tmp/ravi-{os.getuid()}"]  # noqa: S108 - judged below: ours alone, or refused
    if runtime := environ.get("XDG_RUNTIME_DIR", ""):
        folders.insert(0, os.path.join(runtime, "ravi"))
    faults = []
    for folder in folders:
        path = os.path.join(folder, name)
        if not os.path.isabs(path) or len(os.fsencode(path)) > LONGEST:
            faults.append(f"{folder}: too long a path")
        elif fault := _unsafe(folder):
            faults.append(f"{folder}: {fault}")
        else:
            return path
    raise Unavailable(
        f"no place for the control socket: {'; '.join(faults)}", hint="set XDG_RUNTIME_DIR to a short path of your own"
    )


def peer(connection: "socket.socket") -> tuple[int, int]:
    """Process and user at the other end, as the kernel says."""
    import socket

    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    # macOS: LOCAL_PEERCRED is 1 and LOCAL_PEERPID is 2, at the level SOL_LOCAL, which is 0
    _, uid = struct.unpack_from("2I", connection.getsockopt(0, 1, 76))
    return struct.unpack("i", connection.getsockopt(0, 2, 4))[0], uid


def told(fault: RaviError) -> dict[str, Any]:
    """A fault as it goes over a line, to be raised again at the other end."""
    return {"error": str(fault), "code": fault.code, "hint": fault.hint}


def fault_of(words: Mapping[str, Any]) -> RaviError:
    """The fault that `told` made these words of."""
    kinds, todo = {RaviError.code: RaviError}, [RaviError]
    while todo:
        kind = todo.pop()
        kinds.setdefault(kind.code, kind)
        todo += kind.__subclasses__()
    return kinds.get(str(words.get("code")), RaviError)(str(words["error"]), hint=str(words.get("hint", "")))


def _note(beside: str) -> str:
    return os.path.join(beside, "control")


def _unsafe(folder: str) -> str:
    """Make a folder that only we can enter; what is wrong with the one that is there, else ""."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        seen = os.lstat(folder)
    except OSError as fault:
        return fault.strerror or str(fault)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        return "is not a folder of ours"
    if seen.st_mode & 0o077:
        return "others may enter it"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"


def _read(connection: "socket.socket") -> bytes:
    """One line. Raises ValueError when it does not end."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = connection.recv(1 << 16)
        if not chunk or len(data) > _LINE:
            raise ValueError("no line")
        data += chunk
    return data


def _shut(connection: "socket.socket") -> None:
    import socket

    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _inode(path: str) -> list[int]:
    seen = os.stat(path)
    return [seen.st_dev, seen.st_ino]


def _is_there(path: str, inode: list[int]) -> bool:
    try:
        return _inode(path) == inode
    except OSError:
        return False
