"""The contract of runners: one suite, every runner. A new runner joins by saying how its agent does these things."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ravi.runners.base import Order, Result, Runner, RunnerEvent, Stop
from ravi.runners.command import CommandRunner
from ravi.runners.process import Processes, sweep
from ravi.runners.scripted import ScriptedRunner

RUN = "contract-7f3k2a.1"
LIMIT = 64 * 1024


@dataclass(frozen=True)
class Agent:
    """How one runner's agent does what the contract asks for: fields of the order for each thing."""

    name: str
    runner: Callable[[Processes], Runner]
    answers: Mapping[str, Any]  # says the prompt, and no more
    writes: Mapping[str, Any]  # writes `made` into made.txt in its working directory
    fails: Mapping[str, Any]  # says `trying`, then fails
    waits: Mapping[str, Any]  # says `up`, then waits for ever
    resists: Mapping[str, Any]  # the same, and does not want to be stopped
    floods: Mapping[str, Any]  # says `first`, then a thousand kilobytes, then `last`
    reports: Mapping[str, Any]  # reports a usage of 7 tokens
    escapes: Mapping[str, Any] | None = None  # leaves a process behind, out of its group, and says its pid
    env: Mapping[str, str] = field(default_factory=dict)


def sh(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ("sh", "-c", script), **more}


def script(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"script": steps}


ESCAPE = "mkfifo f; ( setsid nohup sh -c 'echo $$ >f; exec sleep 1000' >/dev/null 2>&1 & ); read pid <f; echo $pid"

AGENTS = (
    Agent(
        name="command",
        runner=CommandRunner,
        answers=sh("cat"),
        writes=sh("printf made >made.txt"),
        fails=sh("echo trying; exit 3"),
        waits=sh("echo up; exec sleep 1000"),
        resists=sh("trap '' TERM INT; echo up; while :; do sleep 1000; done"),
        floods=sh("echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last"),
        reports=sh('echo \'{"type":"usage","tokens":7}\'', output="jsonl"),
        escapes=sh(ESCAPE),
    ),
    Agent(
        name="scripted",
        runner=ScriptedRunner,
        answers=script({"say": "{prompt}"}),
        writes=script({"write": "made.txt", "text": "made"}),
        fails=script({"say": "trying"}, {"fail": "no luck"}),
        waits=script({"say": "up"}, {"wait": "1h"}),
        resists=script({"say": "up"}, {"run": ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]}),
        floods=script({"say": "first"}, *({"say": "x" * 999} for _ in range(1000)), {"say": "last"}),
        reports=script({"usage": {"tokens": 7}}),
        escapes=script({"run": ["sh", "-c", ESCAPE]}),
    ),
)


class Turn:
    """One turn in a thread of its own, with everything the runner told about it."""

    def __init__(self, runner: Runner, order: Order) -> None:
        self.order = order
        self.events: list[RunnerEvent] = []
        self.stops: list[Stop] = []
        self._told = threading.Condition()
        self._result: Future[Result] = Future()
        self._thread = threading.Thread(target=self._run, args=(runner,))
        self._thread.start()

    def says(self, word: str) -> None:
        """Wait until the agent has said `word`."""
        with self._told:
            assert self._told.wait_for(lambda: word in self.text or self._result.done(), 20)
        assert word in self.text

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if event.type == "text")

    def result(self) -> Result:
        result = self._result.result(30)
        self._thread.join()
        return result

    def _run(self, runner: Runner) -> None:
        try:
            self._result.set_result(runner.run(self.order, self._emit, self.stops.append))
        except BaseException as fault:
            self._result.set_exception(fault)
        with self._told:
            self._told.notify_all()

    def _emit(self, event: RunnerEvent) -> None:
        assert self.stops, "the stop is handed over before anything happens"
        assert not self._result.done()
        with self._told:
            self.events.append(event)
            self._told.notify_all()


@pytest.fixture(params=AGENTS, ids=lambda agent: agent.name)
def agent(request: pytest.FixtureRequest) -> Agent:
    given: Agent = request.param
    return given


@pytest.fixture
def take(agent: Agent, tmp_path: Path) -> Iterator[Callable[..., Turn]]:
    turns: list[Turn] = []
    with Processes() as processes:

        def take(doing: Mapping[str, Any], **fields: Any) -> Turn:
            cwd = tmp_path / "work"
            cwd.mkdir(exist_ok=True)
            given = {
                "run": RUN,
                "prompt": "",
                "command": (),
                "cwd": cwd,
                "env": {"PATH": "/usr/bin:/bin", "RAVI_RUN": RUN, "RAVI_WORKSPACE": str(tmp_path), **agent.env},
                "timeout": 30.0,
                "log": tmp_path / "logs" / f"{len(turns)}.log",
                "grace": 0.1,
                "limit": LIMIT,
            }
            turns.append(Turn(agent.runner(processes), Order(**{**given, **doing, **fields})))
            return turns[-1]

        yield take
        for turn in turns:
            for stop in turn.stops:
                stop("the test is over")
            turn.result()
    assert sweep(RUN, str(tmp_path)) == 0


Take = Callable[..., Turn]


def test_it_completes_with_its_last_words(agent: Agent, take: Take) -> None:
    result = take(agent.answers, prompt="Grüße,\nworld").result()
    assert (result.status, result.reason, result.text) == ("completed", "", "Grüße,\nworld")
    assert result.survivors == 0


def test_it_works_in_its_working_directory(agent: Agent, take: Take) -> None:
    turn = take(agent.writes)
    assert turn.result().status == "completed"
    assert (turn.order.cwd / "made.txt").read_text() == "made"


def test_it_fails_with_a_reason(agent: Agent, take: Take) -> None:
    result = take(agent.fails).result()
    assert result.status == "failed"
    assert result.reason
    assert result.text == "trying"


def test_started_is_the_first_event_and_comes_once(agent: Agent, take: Take) -> None:
    turn = take(agent.answers, prompt="hello")
    turn.result()
    assert [event.type for event in turn.events].index("started") == 0
    assert [event.type for event in turn.events].count("started") == 1
    assert isinstance(turn.events[0].data["pid"], int)


def test_what_it_says_is_told_while_it_runs_and_logged(agent: Agent, take: Take) -> None:
    turn = take(agent.waits)
    turn.says("up")
    assert turn.order.log.read_bytes().startswith(b"up\n")
    turn.stops[0]("enough")
    assert turn.result().text == "up"


@pytest.mark.parametrize("kind", ["waits", "resists"])
def test_it_can_be_stopped(agent: Agent, take: Take, kind: str) -> None:
    turn = take(getattr(agent, kind))
    turn.says("up")
    turn.stops[0]("asked by ada")
    turn.stops[0]("asked by bob")
    result = turn.result()
    assert (result.status, result.reason) == ("interrupted", "asked by ada")
    turn.stops[0]("too late")


def test_a_stop_before_it_begins_is_heeded(agent: Agent, take: Take, tmp_path: Path) -> None:
    events: list[RunnerEvent] = []
    order = take(agent.answers).order
    with Processes() as processes:
        result = agent.runner(processes).run(order, events.append, lambda stop: stop("not at all"))
    assert (result.status, result.reason, events) == ("interrupted", "not at all", [])


@pytest.mark.parametrize("kind", ["waits", "resists"])
def test_it_is_ended_when_its_time_is_over(agent: Agent, take: Take, kind: str) -> None:
    result = take(getattr(agent, kind), timeout=0.3).result()
    assert (result.status, result.reason) == ("failed", "timed out after 300ms")


def test_its_output_is_bounded(agent: Agent, take: Take) -> None:
    turn = take(agent.floods)
    result = turn.result()
    log = turn.order.log.read_bytes()
    assert result.status == "completed"
    assert len(log) <= LIMIT + 64
    assert log.startswith(b"first\n")
    assert b"bytes are left out here]" in log
    assert log.endswith(b"\nlast\n")
    assert len(result.text) <= 8 * 1024 + 1
    assert result.text.endswith("last")


def test_its_usage_is_in_the_result(agent: Agent, take: Take) -> None:
    turn = take(agent.reports)
    assert turn.result().usage == {"tokens": 7}
    assert [event.data for event in turn.events if event.type == "usage"] == [{"tokens": 7}]


def test_a_missing_working_directory_is_a_failure_in_words(agent: Agent, take: Take, tmp_path: Path) -> None:
    turn = take(agent.answers, cwd=tmp_path / "gone")
    result = turn.result()
    assert (result.status, result.reason) == ("failed", f"cannot work in {tmp_path}/gone: No such file or directory")
    assert turn.events == []


def test_a_log_that_cannot_be_written_does_not_end_the_run(agent: Agent, take: Take, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = take(agent.answers, prompt="hello", log=tmp_path / "file" / "run.log").result()
    assert (result.status, result.text) == ("completed", "hello")


def test_many_turns_do_not_disturb_each_other(agent: Agent, take: Take) -> None:
    turns = [take(agent.answers, prompt=f"turn {n}") for n in range(20)]
    assert [turn.result().text for turn in turns] == [f"turn {n}" for n in range(20)]


def test_what_the_caller_raises_ends_the_run_and_comes_out(agent: Agent, take: Take) -> None:
    order = take(agent.answers).order

    def emit(event: RunnerEvent) -> None:
        raise ZeroDivisionError

    with Processes() as processes, pytest.raises(ZeroDivisionError):
        agent.runner(processes).run(order, emit, lambda stop: None)


@pytest.mark.skipif(sys.platform != "linux", reason="descendants that leave the group are found on Linux only")
def test_no_descendant_outlives_a_run(agent: Agent, take: Take) -> None:
    if agent.escapes is None:
        pytest.skip("its agent cannot be told to")
    result = take(agent.escapes).result()
    assert (result.status, result.survivors) == ("completed", 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.text), 0)
