"""The `scripted` runner: steps played back, and what ends a play."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from ravi.runners.base import Order, Result, RunnerEvent, Stop
from ravi.runners.process import Processes
from ravi.runners.scripted import ScriptedRunner

Make = Callable[..., Order]
Play = Callable[..., tuple[Result, list[RunnerEvent]]]


@pytest.fixture
def play(processes: Processes, order: Make) -> Play:
    def play(*script: dict[str, Any], **fields: Any) -> tuple[Result, list[RunnerEvent]]:
        events: list[RunnerEvent] = []
        asked = order(script=script, **fields)
        return ScriptedRunner(processes).run(asked, events.append, lambda stop: None), events

    return play


def test_what_is_said_is_the_text_and_the_log(play: Play, order: Make) -> None:
    result, events = play({"say": "hello"}, {"say": "you said: {prompt}"}, prompt="hi")
    assert result == Result("completed", exit=0, text="hello\nyou said: hi")
    assert [(event.type, event.text) for event in events] == [
        ("started", ""),
        ("text", "hello\n"),
        ("text", "you said: hi\n"),
    ]
    assert order().log.read_text() == "hello\nyou said: hi\n"


def test_files_are_written_and_deleted_below_the_working_directory(play: Play, order: Make) -> None:
    cwd = order().cwd
    (cwd / "old.md").write_text("old")
    result, _ = play(
        {"write": "outputs/deep/report.md", "text": "for: {prompt}\r\n"}, {"delete": "old.md"}, prompt="you"
    )
    assert result.status == "completed"
    assert (cwd / "outputs/deep/report.md").read_bytes() == b"for: you\r\n"
    assert not (cwd / "old.md").exists()


@pytest.mark.parametrize("path", ["../out", "/etc/out", "link/out", ".", "", "a/../../out"])
def test_a_path_that_leads_elsewhere_fails(play: Play, order: Make, path: str) -> None:
    (order().cwd / "link").symlink_to("/etc")
    result, _ = play({"say": "first"}, {"write": path, "text": "x"})
    assert (result.status, result.reason) == (
        "failed",
        f"step 2 of the script, write: {path} is not below the working directory",
    )


def test_nothing_is_played_after_a_failure(play: Play) -> None:
    result, _ = play({"say": "a"}, {"fail": "no luck"}, {"say": "b"})
    assert result == Result("failed", reason="no luck", text="a")


def test_usage_adds_up_by_name(play: Play) -> None:
    result, events = play({"usage": {"tokens": 1, "model": "m"}}, {"usage": {"tokens": 5, "bad": [1]}})
    assert result.usage == {"tokens": 5, "model": "m"}
    assert events[-1].data == result.usage


def test_a_wait_ends_in_time(play: Play) -> None:
    assert play({"wait": "1ms"}, {"say": "awake"})[0].text == "awake"


def test_a_program_is_run_with_the_orders_environment(play: Play, order: Make) -> None:
    result, _ = play(
        {"say": "before"},
        {"run": ["sh", "-c", 'echo "$RAVI_RUN $1"', "sh", "{prompt}"]},
        {"run": "echo 'two words'"},
        prompt="hi",
    )
    assert result.text == "before\nlogin-7f3k2a.1 hi\ntwo words"
    assert order().log.read_text() == "before\nlogin-7f3k2a.1 hi\ntwo words\n"


def test_ravi_is_the_one_on_the_path(play: Play, order: Make) -> None:
    program = order().cwd / "ravi"
    program.write_text('#!/bin/sh\necho "asked: $*"\n')
    program.chmod(0o755)
    env = {"PATH": str(program.parent)}
    assert play({"ravi": "tasks done --summary 'all well'"}, env=env)[0].text == "asked: tasks done --summary all well"
    assert play({"ravi": ["tasks", "done"]}, env=env)[0].text == "asked: tasks done"


def test_a_program_that_fails_ends_the_play(play: Play) -> None:
    result, _ = play({"run": ["sh", "-c", "echo oops >&2; exit 3"]}, {"say": "never"})
    assert (result.status, result.exit, result.reason, result.text) == ("failed", 3, "`sh`: exited with 3", "oops")
    result, _ = play({"run": ["ravi-nonesuch"]})
    assert result.reason == "`ravi-nonesuch`: no program `ravi-nonesuch` on the agent's PATH"


@pytest.mark.parametrize("step", [{"wait": "1h"}, {"run": ["sleep", "1000"]}])
def test_a_stop_and_a_timeout_reach_every_step(play: Play, processes: Processes, order: Make, step: object) -> None:
    assert play(step, {"say": "never"}, timeout=0.1)[0].reason == "timed out after 100ms"
    stops: list[Stop] = []
    said = threading.Event()
    results: list[Result] = []

    def emit(event: RunnerEvent) -> None:
        if event.text == "up\n":
            said.set()

    def run() -> None:
        asked = order(script=({"say": "up"}, step, {"say": "never"}), prompt="")
        results.append(ScriptedRunner(processes).run(asked, emit, stops.append))

    thread = threading.Thread(target=run)
    thread.start()
    assert said.wait(10)
    stops[0]("enough")
    stops[0]("again")
    thread.join()
    assert (results[0].status, results[0].reason, results[0].text) == ("interrupted", "enough", "up")


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({}, "step 1 of the script has no verb; it is one of say, write, delete, wait, ravi, run, usage, fail"),
        ({"wait": "soon"}, "step 1 of the script, wait: 'soon' is not a duration; write 500ms, 30s, 5m, 2h or 1d"),
        ({"run": 3}, "step 1 of the script, run: a list of words is wanted"),
        ({"run": []}, "step 1 of the script, run: there is no word in it"),
        ({"delete": "nothing"}, "step 1 of the script, delete: [Errno 2] No such file or directory: '{cwd}/nothing'"),
    ],
)
def test_a_step_that_cannot_be_played_fails_in_words(
    play: Play, order: Make, step: dict[str, Any], reason: str
) -> None:
    result, _ = play(step)
    assert (result.status, result.reason) == ("failed", reason.replace("{cwd}", str(order().cwd)))


def test_without_a_step_nothing_is_started(order: Make) -> None:
    result = ScriptedRunner().run(order(script=({"say": "hi"},)), lambda event: None, lambda stop: None)
    assert result.status == "completed"


def test_a_runner_without_processes_starts_its_own(order: Make) -> None:
    asked = order(script=({"run": ["echo", "hi"]},))
    assert ScriptedRunner().run(asked, lambda event: None, lambda stop: None).text == "hi"
