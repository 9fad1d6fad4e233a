"""The bundled NATS server: ours alone, on loopback, started again when it dies, and gone when we are.

Between us and the server stands a shell that reads a pipe of ours. The pipe's end, which also our sudden death brings,
has it kill the server.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from ravi.bus.nats import Address
from ravi.errors import RaviError, Unavailable

_OLDEST = (2, 12)  # what came before can lose what it acknowledged, in several ways
_HINT = "have the one that comes with ravi: pip install 'ravi[nats]'"
_SHELL = '"$@" </dev/null >&2 & echo $!; exec >/dev/null 2>&1; read -r _; kill -9 $!; wait'
_RECOVERY = 120.0  # seconds for the first start: the server reads its whole store
_PATIENCE = 10.0  # seconds for a graceful end, and for an answer about itself
_PAUSE, _LONGEST, _WELL = (
    0.1,
    5.0,
    30.0,
)  # seconds before a restart: first, longest; a life that makes it the first again
_LINE = re.compile(r"(?:\[\d+\] \S+ \S+ )?(?:\[(\w+)\] )?(.*)")
_STUCK = re.compile(r"no space left on device|Critical write error")
_BROKEN = re.compile(
    r"(?!Filestore \[|.*consumer).*(?:JetStream|metafile|checksum|corrupt|recover|recreat)", re.IGNORECASE
)  # in what goes wrong at a start; what a kill left of a stream's files or of a consumer is made good without us


@dataclass(frozen=True, slots=True)
class Program:
    """A nats-server that is fit for use."""

    path: str
    version: str


def find_server(path: str | None = None) -> Program:
    """The nats-server on PATH, or else the one beside the python that runs us; Unavailable when neither is fit."""
    beside = os.path.join(os.path.dirname(sys.executable), "nats-server")
    places = (shutil.which("nats-server", path=path), shutil.which(beside))
    faults = []
    for place in dict.fromkeys(filter(None, places)):
        version = _version(place)
        if tuple(int(part) for part in version.split(".")[:2]) >= _OLDEST:
            return Program(place, version)
        faults.append(f"{place} is version {version}, and {_OLDEST[0]}.{_OLDEST[1]} or newer is needed")
    raise Unavailable("; ".join(faults) or "no program `nats-server` on PATH", hint=_HINT)


def access(folder: str) -> Address | None:
    """Where the server of a folder is, or was last, for who may read the folder; None when it never had one."""
    known = _recalled(folder)
    return None if known is None else _address(*known)


@dataclass(slots=True)
class _Life:
    """One life of the server, from its start to its end."""

    began: float
    ready: bool = False
    broken: bool = False  # its store cannot be read
    words: deque[str] = field(default_factory=lambda: deque(maxlen=3))  # the last things that went wrong

    @property
    def fault(self) -> str:
        return f"nats-server {'ended' if self.ready else 'did not start'}: {'; '.join(self.words) or 'it said nothing'}"


class NatsServer:
    """A NATS server with JetStream; its store, port and password are kept in `folder`.

    When it dies it is started again on the same port, where a Link finds it. A store that cannot be read is moved
    aside. Nobody without the password is let in, and a message is on the disk before it is acknowledged. One folder
    has one server: who starts a second one ends the first.
    """

    def __init__(self, folder: str, *, path: str | None = None) -> None:
        self._folder = os.path.abspath(folder)
        self._path = path
        self._program = Program("", "")
        self._port, self._password = 0, ""
        self._pid, self._said = 0, ""
        self._fault: RaviError | None = None  # why there will be no server
        self._settled = threading.Event()  # the first start succeeded or failed
        self._stopping = threading.Event()
        self._gate = threading.Lock()  # nothing is started after `stop` has looked for what there is to end
        self._thread = threading.Thread(target=self._keep, name="nats-server", daemon=True)

    @property
    def pid(self) -> int:
        """The server's process; 0 while there is none."""
        return self._pid

    @property
    def version(self) -> str:
        """The version of the program that is used."""
        return self._program.version

    @property
    def said(self) -> str:
        """Why it ended last, and what was done about it, for a person. Empty when it never did."""
        return self._said

    @property
    def address(self) -> Address:
        """Where a Link finds it; from `start` on it stays the same."""
        return _address(self._port, self._password)

    def start(self) -> Address:
        """Start it; on return it takes messages, and was seen to sync each one. Unavailable when that cannot be."""
        self._program = find_server(self._path)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._recall()
            self._end_leftover()
        except OSError as fault:
            raise Unavailable(f"{fault.filename or self._folder}: {fault.strerror or fault}") from fault
        self._thread.start()
        if not self._settled.wait(_RECOVERY):
            self._fault = Unavailable(f"{self._folder}: nats-server was not ready within {_RECOVERY:g} s")
        if self._fault is not None:
            self.stop()
            raise self._fault
        return self.address

    def stop(self) -> None:
        """End it, by force when it does not go by itself. No process, thread or descriptor stays behind."""
        with self._gate:
            self._stopping.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._thread.is_alive():
                self._signal(number)
                self._thread.join(_PATIENCE)

    def _signal(self, number: int) -> None:
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _recall(self) -> None:
        """The port and password of last time, or new ones."""
        known = _recalled(self._folder)
        if known is not None:
            self._port, self._password = known
        if not self._password or not _is_free(self._port):
            self._choose_port()

    def _choose_port(self) -> None:
        self._port = _free_port()
        self._password = self._password or secrets.token_urlsafe(32)
        self._write("access.json", json.dumps({"port": self._port, "password": self._password}))

    def _write(self, name: str, text: str) -> str:
        """A file that only we can read, whole or not there."""
        place = os.path.join(self._folder, name)
        part = f"{place}.part"
        with suppress(FileNotFoundError):
            os.unlink(part)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, place)
        return place

    def _end_leftover(self) -> None:
        """Two servers in one store ruin it. One may be left when both we and the shell were killed."""
        try:
            with open(os.path.join(self._folder, "pid"), encoding="utf-8") as file:
                pid = int(file.read())
        except (FileNotFoundError, ValueError):
            return
        while self._conf in _words_of(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)  # it is nobody's child that could be waited for

    @property
    def _conf(self) -> str:
        return os.path.join(self._folder, "server.conf")

    @property
    def _store(self) -> str:
        return os.path.join(self._folder, "store")

    # From here on: the thread.

    def _keep(self) -> None:
        """Live after live, until we stop."""
        pause, moved = _PAUSE, False
        while not self._stopping.is_set():
            life = _Life(time.monotonic())
            try:
                self._live(life)
                fault: RaviError = Unavailable(life.fault, hint=f"see {self._folder}")
                again = life.broken and not moved
                if again:
                    fault = Unavailable(f"{life.fault}; {self._set_aside()}")
                moved = again or (moved and not life.ready)
                if not again and not self._settled.is_set() and not _is_free(self._port):
                    self._choose_port()
                    again = True
            except OSError as told:
                fault, again = Unavailable(f"{told.filename or self._folder}: {told.strerror or told}"), False
            except RaviError as told:
                fault, again = told, False
            self._pid = 0
            if self._stopping.is_set():
                break
            self._said = fault.message
            if not again and not self._settled.is_set():
                self._fault = fault
                break
            pause = _PAUSE if time.monotonic() - life.began > _WELL else min(pause * 2, _LONGEST)
            self._stopping.wait(0 if again else pause)
        self._settled.set()

    def _live(self, life: _Life) -> None:
        """One life, from its start to its end."""
        self._write("server.conf", self._settings())
        with self._gate:
            if self._stopping.is_set():
                return
            shell = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "nats", self._program.path, "-c", self._conf],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            assert shell.stdin is not None
            assert shell.stdout is not None
            assert shell.stderr is not None
            self._pid = int(shell.stdout.readline() or 0)  # nothing, when the shell could not start it
        with shell, shell.stdin:  # the pipe's end ends what may still live
            for line in shell.stderr:
                level, words = _read(line)
                if words == "Server is ready":
                    if life.broken:
                        return
                    self._begin(life)
                elif level != "INF" and not words.startswith("Plaintext"):
                    life.words.append(words)
                    if _STUCK.search(words):
                        if life.ready:  # it takes nothing more, not even when there is room again
                            return
                    elif not life.ready and _BROKEN.match(words):
                        life.broken = True

    def _begin(self, life: _Life) -> None:
        if not self._is_syncing():
            raise Unavailable(
                f"{self._program.path}: it does not write every message to the disk before it acknowledges it",
                hint=_HINT,
            )
        life.ready = True
        life.words.clear()
        self._settled.set()

    def _is_syncing(self) -> bool:
        """What the server itself says, not what its settings ask for. By hand: a client would take 130 ms to import."""
        hello = json.dumps({"user": "system", "pass": self._password, "verbose": False})
        with socket.create_connection(("127.0.0.1", self._port), _PATIENCE) as wire, wire.makefile("rb") as lines:
            wire.sendall(f"CONNECT {hello}\r\nSUB me 1\r\nPUB $SYS.REQ.SERVER.PING.VARZ me 0\r\n\r\n".encode())
            for line in lines:
                if line.startswith(b"MSG "):
                    told = json.loads(lines.read(int(line.split()[-1])))
                    return bool(told["data"]["jetstream"]["config"].get("sync_always"))
        return False

    def _settings(self) -> str:
        quoted = {name: json.dumps(value, ensure_ascii=False) for name, value in {
            "password": self._password, "store": self._store, "pid": os.path.join(self._folder, "pid"),
        }.items()}  # fmt: skip
        return (
            f'host: "127.0.0.1"\nport: {self._port}\npid_file: {quoted["pid"]}\n'
            f"jetstream {{\n  store_dir: {quoted['store']}\n  sync_interval: always\n}}\n"
            "accounts {\n"
            f"  ravi {{ jetstream: enabled, users: [{{ user: ravi, password: {quoted['password']} }}] }}\n"
            f'  "$SYS" {{ users: [{{ user: system, password: {quoted["password"]} }}] }}\n'
            '}\nsystem_account: "$SYS"\n'
        )

    def _set_aside(self) -> str:
        """Nothing in the store is the only copy: what matters is in git."""
        aside = f"{self._store}.broken-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        os.replace(self._store, aside)
        return f"its store cannot be read and was moved to {aside}; an empty one was begun"


def _address(port: int, password: str) -> Address:
    return Address((f"nats://127.0.0.1:{port}",), user="ravi", password=password)


def _recalled(folder: str) -> tuple[int, str] | None:
    """The port and password that a server of this folder had."""
    with (
        suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError),
        open(os.path.join(folder, "access.json"), encoding="utf-8") as file,
    ):
        known = json.load(file)
        return int(known["port"]), str(known["password"])
    return None


def _read(line: bytes) -> tuple[str, str]:
    """Level and words of a line of the server's log; what is no such line has no level."""
    found = _LINE.match(line.decode(errors="replace").strip())
    return (found[1] or "", found[2]) if found else ("", "")


def _version(program: str) -> str:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "0.0"
    found = re.search(r"v(\d+\.\d+[.\w-]*)", asked.stdout)
    return found[1] if found else "0.0"


def _words_of(pid: int) -> str:
    """The command line of a process; empty when there is none."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read()
    if os.path.isdir("/proc/self"):
        return ""
    words = ["ps", "-ww", "-p", str(pid), "-o", "args="]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
