"""The daemon as a service of the login: a systemd user unit or a launchd agent, and what systemd wants to be told."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

from ravi.app import App
from ravi.errors import Unavailable, UsageError
from ravi.store.locks import Leader

Manager = Literal["systemd", "launchd"]

AGAIN = 75  # the exit code with which a daemon asks to be started again
REFUSED = 5  # it will not start by trying again: another process leads
STOP_TIME = 45  # seconds: longer than the loop takes to stop what runs
_WATCHDOG = 120  # seconds without a sign of life after which it counts as hung
_ASK = 30.0  # seconds for systemctl or launchctl


class Notifier:
    """Tells systemd how the daemon is; silent where nobody asked to be told."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        micros = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._every = int(micros) / 2e6 if self._address and ours and micros.isdecimal() else 0.0
        self._next = 0.0

    def ready(self, said: str) -> None:
        """It leads and works."""
        self._tell(f"READY=1\nSTATUS={said}")

    def stopping(self) -> None:
        """It was asked to end."""
        self._tell("STOPPING=1")

    def alive(self, now: float) -> None:
        """The loop turns. To be called at every turn; it speaks twice in the time that it was given."""
        if self._every and now >= self._next:
            self._next = now + self._every
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        import socket

        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect(address)
            told.sendall(state.encode())


def install(app: App, manager: Manager | None, *, dry: bool) -> dict[str, Any]:
    """Write the service's file and have it started at every login, now too where nothing leads the workspace.

    With `dry` nothing is written. Raises Unavailable when the file is written and the manager does not take it.
    """
    app.permit_operator("daemon install")
    kind = _kind(manager)
    name, path = _named(app, kind)
    text = unit(app) if kind == "systemd" else plist(app)
    told = {"manager": kind, "name": name, "file": path, "text": text, "installed": False, "started": False}
    if dry:
        return told
    led = Leader(app.repository.dirs.common_dir).holder()
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{path}.part", path)
    except OSError as fault:
        raise Unavailable(f"{path}: {fault.strerror}") from fault
    if kind == "systemd":
        calls = [["systemctl", "--user", "daemon-reload"], ["systemctl", "--user", "enable", name]]
        if led is None:
            calls[-1].insert(3, "--now")
    else:
        calls = [["launchctl", "enable", _label(name)]]
        if led is None:
            _call(["launchctl", "bootout", _label(name)])  # an older file of ours, if there is one
            calls.append(["launchctl", "bootstrap", f"gui/{os.getuid()}", path])
    for call in calls:
        if said := _call(call):
            raise Unavailable(f"{path} is written, but `{' '.join(call)}` says: {said}", hint="try that line yourself")
    return {**told, "installed": True, "started": led is None, "led_by": str(led) if led else ""}


def uninstall(app: App, manager: Manager | None) -> dict[str, Any]:
    """End the service and remove its file. Nothing to do is no fault."""
    app.permit_operator("daemon uninstall")
    kind = _kind(manager)
    name, path = _named(app, kind)
    told = {"manager": kind, "name": name, "file": path, "removed": False, "said": ""}
    if not os.path.lexists(path):
        return told
    if kind == "systemd":
        said = _call(["systemctl", "--user", "disable", "--now", name])
    else:
        said = _call(["launchctl", "bootout", _label(name)])
    os.unlink(path)
    if kind == "systemd":
        said = _call(["systemctl", "--user", "daemon-reload"]) or said
    return {**told, "removed": True, "said": said}


def unit(app: App) -> str:
    """The systemd user unit."""
    command = " ".join(map(_exec_word, _command(app)))
    return f"""\
[Unit]
Description=ravi daemon of {_plain(app.root)}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart={command}
WorkingDirectory={_path_word(app.root)}
Environment={_quoted(f"PATH={app.environ.get('PATH', os.defpath)}")}
Restart=on-failure
RestartSec=2
RestartForceExitStatus={AGAIN}
RestartPreventExitStatus={REFUSED}
KillMode=mixed
TimeoutStartSec=10min
TimeoutStopSec={STOP_TIME}
WatchdogSec={_WATCHDOG}

[Install]
WantedBy=default.target
"""


def plist(app: App) -> str:
    """The launchd agent. It starts again after a failure, and stays away when it was asked to end."""
    import plistlib

    return plistlib.dumps(
        {
            "Label": _named(app, "launchd")[0],
            "ProgramArguments": _command(app),
            "WorkingDirectory": app.root,
            "EnvironmentVariables": {"PATH": app.environ.get("PATH", os.defpath)},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": STOP_TIME,
        },
        sort_keys=False,
    ).decode()


def _kind(manager: Manager | None) -> Manager:
    if manager is not None:
        return manager
    if sys.platform == "darwin":
        return "launchd"
    if sys.platform.startswith("linux"):
        return "systemd"
    raise UsageError(f"no service manager of {sys.platform} is known here", hint="name one with --manager")


def _named(app: App, kind: Manager) -> tuple[str, str]:
    """The service's name, and the path of its file. Two workspaces never share one."""
    import hashlib

    base = os.path.basename(app.root)
    word = "".join(c if c.isascii() and c.isalnum() else "-" for c in base.lower()).strip("-")[:32] or "workspace"
    own = f"{word}-{hashlib.sha256(os.fsencode(app.root)).hexdigest()[:8]}"
    home = app.environ.get("HOME") or os.path.expanduser("~")
    if kind == "launchd":
        return f"ravi.{own}", os.path.join(home, "Library", "LaunchAgents", f"ravi.{own}.plist")
    settings = app.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return f"ravi-{own}.service", os.path.join(settings, "systemd", "user", f"ravi-{own}.service")


def _command(app: App) -> list[str]:
    return [sys.executable, "-P", "-m", "ravi", "--workspace", app.root, "daemon", "run"]


def _label(name: str) -> str:
    return f"gui/{os.getuid()}/{name}"


def _call(command: list[str]) -> str:
    """Run one command of the manager; what is wrong, else ""."""
    program = shutil.which(command[0])
    if program is None:
        return f"{command[0]} is not on PATH"
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_ASK, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return str(fault)
    return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split()) or f"exit {done.returncode}"


def _exec_word(word: str) -> str:
    """A word of ExecStart: no variable and no specifier of systemd's in it."""
    return _quoted(word.replace("$", "$$"))


def _path_word(path: str) -> str:
    """A path as WorkingDirectory takes it: without quotes, to the end of the line."""
    return _plain(path).replace("%", "%%")


def _quoted(word: str) -> str:
    return '"' + _plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _plain(text: str) -> str:
    """Text that stays on its line."""
    if any(not c.isprintable() for c in text):
        raise UsageError(f"{text!r} has a character that a unit file cannot hold")
    return text
