"""The demo does what it says: the whole flow, in seconds, with nothing but Python and git."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ravi.errors import RaviError
from ravi.porcelain import demo
from ravi.porcelain.shipped import shipped


def _demo(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "RAVI_WORKSPACE": "/nowhere"}
    command = [sys.executable, "-m", "ravi", "demo", *words]
    return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)


def _git(folder: Path, *words: str) -> list[str]:
    return subprocess.check_output(["git", *words], cwd=folder, text=True).splitlines()


def test_the_demo_plays_it_all_and_leaves_a_workspace_to_look_at(tmp_path: Path) -> None:
    played = _demo(tmp_path, "--dir", "there", "--json")
    assert played.stderr == ""
    told = json.loads(played.stdout)
    there = tmp_path / "there"
    assert (told["ok"], told["kept"], told["workspace"]) == (True, True, str(there))
    assert {task["status"] for task in told["tasks"] if task["id"] != "links"} == {"done"}
    assert told["commits"] == len(_git(there, "rev-list", "HEAD"))
    assert _git(there, "status", "--porcelain", "--untracked-files=no") == []

    authors = set(_git(there, "log", "--format=%an"))
    assert {"editor", "researcher"} < authors  # and whoever runs this test
    ends = _git(there, "log", "--first-parent", "--merges", "--format=%s", "--grep=^Ravi-Run: overview")
    assert len(ends) == 2, "the editor takes two turns: it hands out, and is woken once"
    failed = _git(
        there, "log", "--first-parent", "--format=%(trailers:key=Ravi-Run,valueonly,separator=)", "--grep= failed"
    )
    assert failed
    assert all(run.startswith("read-retries") for run in failed if run)
    first, *_ = [
        line for line in (there / "tasks/overview/outputs/overview.md").read_text().splitlines() if "1. " in line
    ]
    assert "(notes/" in first


def test_the_demo_tells_what_happens_while_it_happens_and_where_to_look_next(tmp_path: Path) -> None:
    played = _demo(tmp_path, "--no-keep")
    assert played.returncode == 0
    said = [line[8:] for line in played.stderr.splitlines()]
    order = [
        "you:        save tasks/overview/TASK.md",
        "editor:     run overview.1: started by editor",
        "editor:     run overview.1: finished by editor",
        "you:        edit the order meanwhile",
        "you:        write the missing notes/retries.md",
        "editor:     run overview.2: finished by editor; task overview is done",
    ]
    places = [next(n for n, line in enumerate(said) if line.startswith(start_)) for start_ in order]
    assert places == sorted(places)
    assert "run overview.2: finished by editor; task overview is done" in played.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("ravi-demo-")] == []


def test_a_folder_with_something_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused = _demo(tmp_path, "--dir", "mine")
    assert (refused.returncode, refused.stderr) == (5, "ravi: mine: is there already\n  name a new folder\n")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_a_demo_that_does_not_come_to_its_end_says_what_did_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shipped("workspace.example"), tmp_path / "workspace.example")
    shutil.copytree(shipped("templates"), tmp_path / "templates")
    monkeypatch.setattr("ravi.porcelain.shipped._PACKAGE", str(tmp_path / "ravi"))
    task = tmp_path / "workspace.example/tasks/overview/TASK.md"
    task.write_text(task.read_text().replace("attempts: 3", "attempts: 1"))
    (tmp_path / "workspace.example/agents/editor/editor.py").write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    said: list[str] = []
    with pytest.raises(RaviError, match=r"run overview\.1: .*was the last") as caught:
        demo.demo(str(tmp_path / "there"), {**os.environ, "HOME": str(tmp_path)}, keep=False, say=said.append)
    assert str(tmp_path / "there") in caught.value.hint
    assert (tmp_path / "there" / "ravi.yaml").exists()
