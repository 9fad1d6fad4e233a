"""The `command` runner: how the prompt goes in, what the output means, and the one result."""

import json
import os
import sys
from collections.abc import Callable

import pytest

from ravi.runners.base import Order, Result, RunnerEvent
from ravi.runners.command import LONGEST_LINE, CommandRunner, JsonLines
from ravi.runners.process import Processes

Make = Callable[..., Order]


@pytest.fixture
def play(processes: Processes) -> Callable[[Order], tuple[Result, list[RunnerEvent]]]:
    def play(order: Order) -> tuple[Result, list[RunnerEvent]]:
        events: list[RunnerEvent] = []
        return CommandRunner(processes).run(order, events.append, lambda stop: None), events

    return play


Play = Callable[[Order], tuple[Result, list[RunnerEvent]]]


def lines(*events: object) -> str:
    return "".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


def test_the_prompt_goes_to_stdin(play: Play, order: Make) -> None:
    result, _ = play(order("sh", "-c", "printf 'heard: '; cat", prompt="do it\n"))
    assert (result.status, result.exit, result.text) == ("completed", 0, "heard: do it")


def test_the_prompt_goes_where_the_command_wants_it(play: Play, order: Make) -> None:
    result, _ = play(order("sh", "-c", 'echo "$1"; cat', "{prompt}", "say: {prompt}!", prompt="it's $HOME"))
    assert result.text == "say: it's $HOME!"


def test_the_program_itself_is_never_named_by_a_prompt(play: Play, order: Make) -> None:
    result, _ = play(order("{prompt}", prompt="true"))
    assert result.reason == "no program `{prompt}` on the agent's PATH"


def test_started_comes_first_and_text_follows(play: Play, order: Make) -> None:
    _, events = play(order("sh", "-c", "echo a; echo b"))
    assert [event.type for event in events[:1]] == ["started"]
    pid = events[0].data["pid"]
    assert events[0].data == {"pid": pid, "pgid": pid, "start": events[0].data["start"]}
    assert "".join(event.text for event in events[1:]) == "a\nb\n"


@pytest.mark.parametrize(
    ("script", "exit_code", "reason"),
    [
        ("exit 3", 3, "exited with 3"),
        ("kill -KILL $$", -9, "killed by SIGKILL"),
        ("kill -40 $$", -40, "killed by signal 40"),
    ],
)
def test_how_it_failed_is_said(play: Play, order: Make, script: str, exit_code: int, reason: str) -> None:
    result, _ = play(order("bash", "-c", script))
    assert (result.status, result.exit, result.reason) == ("failed", exit_code, reason)


def test_what_was_not_found_is_said(play: Play, order: Make) -> None:
    result, events = play(order("foo"))
    assert result == Result("failed", reason="no program `foo` on the agent's PATH")
    assert events == []


def test_a_timeout_is_said(play: Play, order: Make) -> None:
    result, _ = play(order("sleep", "100", timeout=0.1))
    assert (result.status, result.exit, result.reason) == ("failed", -15, "timed out after 100ms")


def test_text_comes_from_stdout_only(play: Play, order: Make) -> None:
    assert play(order("sh", "-c", "echo noise >&2; echo answer; echo noise >&2"))[0].text == "answer"
    assert play(order("sh", "-c", "echo noise >&2"))[0].text == ""


def test_a_failure_that_is_told_on_stderr_only_is_not_lost(play: Play, order: Make) -> None:
    assert play(order("sh", "-c", "echo no such model >&2; exit 1"))[0].text == "no such model"
    assert play(order("sh", "-c", "echo I tried; echo no such model >&2; exit 1"))[0].text == "I tried"


def test_bytes_that_are_no_text_are_replaced(play: Play, order: Make) -> None:
    result, events = play(order("printf", r"a\377\000\303"))
    assert result.text == "a\ufffd\ufffd\ufffd"
    assert "".join(event.text for event in events[1:]) == "a\ufffd\0\ufffd"


def test_only_the_last_words_are_kept(play: Play, order: Make) -> None:
    result, _ = play(order("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo end"))
    assert len(result.text) <= 8 * 1024 + 1
    assert result.text.startswith("…x")
    assert result.text.endswith("xend")


def test_a_line_of_two_hundred_megabytes_costs_bounded_memory(play: Play, order: Make) -> None:
    for output in ("text", "jsonl"):
        longest = 0
        size = 0
        result = None

        def measure(event: RunnerEvent) -> None:
            nonlocal longest, size
            longest = max(longest, len(event.text))
            size += len(event.text)

        with Processes() as processes:
            asked = order("head", "-c", "200000000", "/dev/zero", output=output)
            result = CommandRunner(processes).run(asked, measure, lambda stop: None)
        assert result.status == "completed"
        assert size in (200_000_000, 200_000_000 + -(-200_000_000 // LONGEST_LINE) + 1) or output == "jsonl"
        assert longest <= LONGEST_LINE + 100_000


def test_json_lines_are_events(play: Play, order: Make) -> None:
    said = lines(
        {"type": "text", "text": "thinking"},
        {"type": "tool.started", "name": "bash", "input": {"command": "ls"}},
        {"type": "tool.ended", "name": "bash"},
        {"type": "usage", "input_tokens": 5, "model": "m"},
        {"type": "usage", "input_tokens": 7, "cost": 0.5, "list": [1], "bad": float("nan")},
        {"type": "result", "text": "the answer"},
    )
    result, events = play(order("printf", "%s", said, output="jsonl"))
    assert (result.status, result.text) == ("completed", "the answer")
    assert result.usage == {"input_tokens": 7, "model": "m", "cost": 0.5}
    assert [(event.type, event.text) for event in events[1:]] == [
        ("text", "thinking"),
        ("tool.started", "bash"),
        ("tool.ended", "bash"),
        ("usage", ""),
        ("usage", ""),
    ]


def test_without_a_result_line_the_text_is_the_result(play: Play, order: Make) -> None:
    said = lines({"type": "text", "text": "one "}, {"type": "text", "text": "two"})
    assert play(order("printf", "%s", said, output="jsonl"))[0].text == "one two"


def test_a_result_may_say_that_it_failed(play: Play, order: Make) -> None:
    said = lines({"type": "result", "text": "sorry", "status": "failed", "reason": "no key"})
    result, _ = play(order("printf", "%s", said, output="jsonl"))
    assert (result.status, result.exit, result.reason, result.text) == ("failed", 0, "no key", "sorry")


def test_the_last_result_counts(play: Play, order: Make) -> None:
    said = lines({"type": "result", "text": "no", "status": "failed"}, {"type": "result", "text": "yes"})
    result, _ = play(order("printf", "%s", said, output="jsonl"))
    assert (result.status, result.text) == ("completed", "yes")


def test_an_exit_code_outweighs_a_result(play: Play, order: Make) -> None:
    result, _ = play(order("sh", "-c", 'echo \'{"type":"result","text":"fine"}\'; exit 4', output="jsonl"))
    assert (result.status, result.reason, result.text) == ("failed", "exited with 4", "fine")


@pytest.mark.parametrize(
    "junk",
    [
        "not json",
        "[1, 2]",
        '"text"',
        "null",
        "{",
        '{"type": 3}',
        '{"type": "unheard-of"}',
        "{}",
        "9" * 5000,
        "[" * 100_000,
        '{"type":"text"' + " " * 100,
    ],
)
def test_a_junk_line_is_text(junk: str) -> None:
    events: list[RunnerEvent] = []
    heard = JsonLines(events.append)
    heard.add(f'{junk}\n{{"type":"text","text":"after"}}\n'.encode())
    heard.close()
    assert [event.text for event in events] == [f"{junk}\n", "after"]


def test_blank_lines_and_a_missing_last_line_end_are_fine() -> None:
    events: list[RunnerEvent] = []
    heard = JsonLines(events.append)
    for byte in b'\n\n  \n{"type":"text","text":"\\u2028"}\r\n{"type":"result","text":"x"}':
        heard.add(bytes([byte]))
    heard.close()
    assert [event.text for event in events] == ["\u2028"]
    assert heard.text() == "x"


def test_half_a_character_in_json_can_be_written_down() -> None:
    events: list[RunnerEvent] = []
    heard = JsonLines(events.append)
    heard.add(b'{"type":"text","text":"\\ud800"}\n{"type":"result","text":{"a":"\\ud800"}}\n')
    heard.close()
    assert events[0].text.encode() == b"?"
    heard.text().encode()


def test_a_line_longer_than_any_event_is_text_in_pieces() -> None:
    events: list[RunnerEvent] = []
    heard = JsonLines(events.append)
    heard.add(b"x" * (LONGEST_LINE + 1))
    heard.add(b'{"type":"result","text":"not one"}\n{"type":"result","text":"one"}\n')
    heard.close()
    assert len(events) == 2
    assert heard.text() == "one"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_nothing_survives_a_run(play: Play, order: Make) -> None:
    script = "mkfifo f; ( setsid nohup sh -c 'echo $$ >f; exec sleep 1000' >/dev/null 2>&1 & ); read pid <f; echo $pid"
    result, _ = play(order("sh", "-c", script))
    assert (result.status, result.survivors) == ("completed", 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.text), 0)
