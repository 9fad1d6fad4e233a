"""The daemon's log: how it is written, how it stays small, how it is read."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ravi.porcelain.daemon_log import DaemonLog, last_lines


def now() -> datetime:
    return datetime(2026, 11, 20, 14, 30, 5, tzinfo=UTC)


@pytest.fixture
def log(workspace):
    """The log of a workspace, written here, in small files."""
    made = DaemonLog(str(workspace.root / ".ravi/logs/daemon.log"), now, size=300, files=3)
    yield made
    made.close()


def test_each_line_has_its_moment_once(log):
    log.say("14:29:59 run a.1: started by b")
    log.say("two\nlines")
    assert last_lines(log.path, 9) == [
        "2026-11-20T14:29:59Z run a.1: started by b",
        "2026-11-20T14:30:05Z two",
        "2026-11-20T14:30:05Z lines",
    ]


def test_it_stays_small(log):
    for number in range(200):
        log.say(f"line {number}")
    names = sorted(os.listdir(os.path.dirname(log.path)))
    assert names == ["daemon.log", "daemon.log.1", "daemon.log.2"]
    assert all(os.path.getsize(os.path.join(os.path.dirname(log.path), name)) < 400 for name in names)
    assert [line.split()[-1] for line in last_lines(log.path, 15)] == [str(n) for n in range(185, 200)]


def test_a_log_that_was_deleted_is_begun_anew(log):
    log.say("before")
    shutil.rmtree(os.path.dirname(log.path))
    log.say("after")
    assert [line[21:] for line in last_lines(log.path, 9)] == ["after"]


def test_where_it_cannot_be_written_words_are_lost_and_no_more(log):
    shutil.rmtree(os.path.dirname(log.path))
    with open(os.path.dirname(log.path), "w"):
        log.say("lost")
    os.unlink(os.path.dirname(log.path))
    log.say("kept")
    assert [line[21:] for line in last_lines(log.path, 9)] == ["kept"]


def test_logs_shows_the_last_lines(workspace, log):
    for number in range(5):
        log.say(f"line {number}")
    assert [line[21:] for line in workspace.run("daemon", "logs", "-n", "2").out.splitlines()] == ["line 3", "line 4"]
    out = workspace.run("daemon", "logs", "--json", "-n", "1").out
    assert json.loads(out) == {"line": "2026-11-20T14:30:05Z line 4"}
    assert workspace.run("daemon", "logs", "-n", "0").out == ""


def test_logs_of_a_daemon_that_never_was_are_empty(workspace):
    assert workspace.run("daemon", "logs").out == ""


def test_follow_goes_across_rotations_and_past_the_end_of_a_daemon_until_ctrl_c(workspace, log):
    log.say("line 0")
    follower = subprocess.Popen(
        [sys.executable, "-m", "ravi", "daemon", "logs", "-f"],
        cwd=workspace.root, env=workspace.environ, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        seen = [follower.stdout.readline()[21:]]
        for number in range(1, 60):
            log.say(f"line {number}")
            if number % 9 == 0:  # fewer than fit into the files that are kept
                seen += [follower.stdout.readline()[21:] for _ in range(9)]
        seen += [follower.stdout.readline()[21:] for _ in range(5)]
        shutil.rmtree(os.path.dirname(log.path))
        log.say("a new one")
        seen.append(follower.stdout.readline()[21:])
        assert seen == [*(f"line {number}\n" for number in range(60)), "a new one\n"]
        assert follower.poll() is None
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=20)
    assert follower.returncode == 130


def test_what_a_daemon_writes_to_stderr_follows_its_log(tmp_path):
    path = tmp_path / "daemon.log"
    script = (
        "import os, sys; from datetime import datetime, UTC; from ravi.porcelain.daemon_log import DaemonLog\n"
        "log = DaemonLog(sys.argv[1], lambda: datetime.now(UTC), size=10)\n"
        "assert log.is_stderr()\n"
        "for word in ('first', 'second'): log.say(word); os.write(2, word.encode() + b' cry\\n')\n"
    )
    with path.open("a") as stderr:
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, stderr=stderr)
    assert path.read_text().splitlines()[0].endswith("second")
    assert path.read_text().splitlines()[1] == "second cry"
    assert path.with_name("daemon.log.1").read_text().splitlines()[1] == "first cry"
