"""Starting up: what a command loads before it answers. Names, not milliseconds: those are in docs/benchmarks.md."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

HEAVY = {
    "asyncio", "email", "filelock", "frontmatter", "git", "http", "logging", "multiprocessing",
    "pathlib", "random", "socket", "ssl", "tempfile", "unittest", "urllib", "watchdog", "yaml",
}  # fmt: skip
NEVER = HEAVY | {"ravi.bus", "ravi.runners", "ravi.engine.perform", "ravi.engine.loop", "ravi.store.lanes"}
READING = NEVER | {
    "ctypes", "difflib", "hashlib", "selectors", "shutil", "subprocess", "zlib", "ravi.config",
    "ravi.engine.decide", "ravi.engine.policy", "ravi.porcelain.task_changes", "ravi.store.checkout",
    "ravi.store.gitindex", "ravi.store.index_update", "ravi.store.ingest", "ravi.store.merge", "ravi.store.objects",
    "ravi.store.packs", "ravi.store.publish",
    "ravi.store.writer",
}  # fmt: skip


def loaded(words: Iterable[str], cwd: Path, environ: dict[str, str]) -> set[str]:
    """Every module that `ravi WORDS` imports in a process of its own, Python's own start and end apart."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ravi", *words],
        cwd=cwd, env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:"))
    names = [parts[2].strip() for parts in lines]
    return set(names[names.index("ravi") :])


def found(loaded: set[str], forbidden: set[str]) -> set[str]:
    """Those of the forbidden modules, or of what is in them, that were loaded."""
    return {name for name in loaded if any(name == other or name.startswith(f"{other}.") for other in forbidden)}


@pytest.fixture
def known(workspace, environ) -> str:
    """A task in a workspace whose index stands where its main line stands."""
    id = workspace.json("tasks", "new", "a first task")["id"]
    workspace.run("tasks", "list")
    return str(id)


def test_the_version_is_told_before_anything_is_imported(tmp_path, environ):
    names = loaded(["--version"], tmp_path, environ)
    assert {name for name in names if name.startswith("ravi") or "." not in name} <= {"ravi", "gc"}


def test_help_opens_no_workspace(tmp_path, environ):
    names = loaded(["--help"], tmp_path, environ)
    assert found(names, NEVER | {"ravi.app", "ravi.core", "ravi.porcelain", "ravi.store", "sqlite3"}) == set()


def test_a_list_needs_the_index_and_no_nouns(workspace, environ, known):
    names = loaded(["tasks", "list"], workspace.root, environ)
    nouns = {"dataclasses", "ravi.core.document", "ravi.core.run", "ravi.core.task"}
    assert found(names, READING | nouns) == set()


def test_a_search_needs_no_more_than_a_list(workspace, environ, known):
    assert found(loaded(["tasks", "list", "--search", "first"], workspace.root, environ), READING) == set()


def test_showing_a_task_needs_no_git(workspace, environ, known):
    assert found(loaded(["tasks", "show", known], workspace.root, environ), READING) == set()


def test_a_new_task_needs_no_yaml_and_no_engine(workspace, environ, known):
    names = loaded(["tasks", "new", "another"], workspace.root, environ)
    engine = {"ravi.engine", "ravi.store.ingest", "ravi.core.agent", "ravi.core.run"}
    assert found(names, NEVER | engine) == set()


def test_an_edit_needs_no_yaml_and_no_daemon(workspace, environ, known):
    assert found(loaded(["tasks", "edit", known, "--priority", "2"], workspace.root, environ), NEVER) == set()
