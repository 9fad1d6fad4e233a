"""What every test may use: a workspace in a folder of its own, and `ravi` as a process, as a person has it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A shell that starts us in the background has us ignore Ctrl-C, and so would every program that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Finished:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Workspace:
    """A workspace on disk and the two programs people use on it."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        self.root = root
        self.environ = environ

    def run(self, *words: str, code: int = 0, input: str | None = None, env: dict[str, str] | None = None) -> Finished:
        """`ravi WORDS`, which must end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "ravi", *words],
            cwd=self.root, env={**self.environ, **(env or {})}, input=input, text=True, capture_output=True, timeout=99,
        )  # fmt: skip
        assert done.returncode == code, f"ravi {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Finished(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str, **kw: Any) -> Any:
        return self.run(*words, "--json", **kw).json

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`ravi WORDS` in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "ravi", *words], cwd=self.root, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def git(self, *words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=self.root, check=True, capture_output=True, text=True, env=self.environ
        ).stdout.strip()

    def write(self, path: str, text: str, mode: int | None = None) -> Path:
        """Save a file as an editor does: beside, then renamed into place."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.part~")
        part.write_text(text)
        if mode is not None:
            part.chmod(mode)
        part.rename(place)
        return place

    def read(self, path: str) -> str:
        return (self.root / path).read_bytes().decode()

    def agent(self, name: str, script: str, extra: str = "") -> None:
        """An agent that is a shell script."""
        self.write(f"agents/{name}/agent.sh", "#!/bin/sh\n" + script, 0o755)
        self.write(
            f"agents/{name}/AGENT.md", f"---\nrunner: command\ncommand: [./agent.sh]\n{extra}---\nYou are {name}.\n"
        )

    def task(self, id: str, agent: str, extra: str = "", body: str = "Do it.") -> str:
        """A task, saved in an editor. Returns the path of its folder."""
        self.write(
            f"tasks/{id}/TASK.md", f"---\nid: {id}\nstatus: open\nassignee: {agent}\n{extra}---\n# {id}\n\n{body}\n"
        )
        return f"tasks/{id}"

    def up(self, code: int = 0, timeout: str = "60s") -> Finished:
        """Work off everything."""
        return self.run("up", "--until-idle", "--timeout", timeout, code=code)

    def is_clean(self) -> bool:
        self.git("fsck", "--strict", "--no-dangling")
        return self.git("status", "--porcelain") == ""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a person with a git identity and a home of their own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Ann\n\temail = ann@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "RAVI_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parent.parent), "GIT_CONFIG_NOSYSTEM": "1"}


@pytest.fixture
def workspace(tmp_path: Path, environ: dict[str, str]) -> Workspace:
    """A fresh workspace that takes saved files at once."""
    root = tmp_path / "workspace"
    root.mkdir()
    made = Workspace(root, environ)
    made.run("init")
    settings = made.read("ravi.yaml")
    made.write("ravi.yaml", settings + "\nquiet: 50ms\nnats: off\n")
    return made


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a claim to become true, and fail when it does not."""
    import time

    def wait(claim: Callable[[], Any], seconds: float = 20.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := claim()):
            assert time.monotonic() < end, "it never became true"
            time.sleep(0.02)
        return found

    return wait


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that tests told. (Here, because who only spreads the tests does not load what lies deeper.)"""
    reports = [one for key in ("passed", "failed") for one in terminalreporter.getreports(key)]
    rows = [(one.nodeid, one.user_properties) for one in reports if one.user_properties and one.when == "call"]
    if rows:
        terminalreporter.section("figures")
        for name, told in sorted(rows):
            words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told)
            terminalreporter.line(f"{name.rpartition('/')[2]}: {words}")
