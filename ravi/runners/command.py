"""The `command` runner: any executable takes the turn; the prompt goes in as text, text or JSON lines come out."""

import codecs
import json
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ravi.core.times import format_duration
from ravi.runners.base import COMPLETED, FAILED, INTERRUPTED, Order, Result, RunnerEvent, Stop
from ravi.runners.log import Words
from ravi.runners.process import Exit, Processes

PROMPT = "{prompt}"
LONGEST_LINE = 8 * 1024 * 1024  # of JSON; a longer one is taken as text, piece by piece
_TOOL_EVENTS = ("tool.started", "tool.ended")


class CommandRunner:
    """Runs `Order.command`. `{prompt}` in an argument becomes the prompt; when there is none it is read from stdin."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def run(self, order: Order, emit: Callable[[RunnerEvent], None], on_stop: Callable[[Stop], None]) -> Result:
        """Carry out `order` and block until it ended with all its descendants."""
        if any(PROMPT in argument for argument in order.command[1:]):
            filled = tuple(argument.replace(PROMPT, order.prompt) for argument in order.command[1:])
            order = replace(order, command=(order.command[0], *filled), prompt="")
        hear = JsonLines(emit) if order.output == "jsonl" else Text(emit)

        def started(pid: int, moment: int) -> None:
            emit(RunnerEvent("started", data={"pid": pid, "pgid": pid, "start": moment}))

        end = self._processes.run(order, hear.add, started, on_stop)
        hear.close()
        return verdict(order, end, hear)


class Text:
    """Output that is text: told as it comes, its end kept."""

    failure = ""
    usage: Mapping[str, Any] = {}

    def __init__(self, emit: Callable[[RunnerEvent], None]) -> None:
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._words = Words()

    def add(self, data: bytes) -> None:
        """Hear more of stdout."""
        self._words.add(data)
        self._tell(self._decoder.decode(data))

    def close(self) -> None:
        """Hear that there is no more."""
        self._tell(self._decoder.decode(b"", final=True))

    def text(self) -> str:
        """The last words."""
        return self._words.text()

    def _tell(self, text: str) -> None:
        if text:
            self._emit(RunnerEvent("text", text=text))


class JsonLines:
    """Output that is one canonical event a line; a line that is none is text.

    `text` {text} · `usage` {any numbers or words; the latest of each name counts} · `tool.started`, `tool.ended`
    {anything} · `result` {text, and `status: failed` with `reason` when it did not work out}; the last result counts.
    """

    def __init__(self, emit: Callable[[RunnerEvent], None]) -> None:
        self._emit = emit
        self._line = bytearray()
        self._torn = False  # the beginning of this line was too long and is told already
        self._words = Words()
        self._result: str | None = None
        self.failure = ""
        self.usage: dict[str, Any] = {}

    def add(self, data: bytes) -> None:
        """Hear more of stdout."""
        *lines, rest = data.split(b"\n")  # only LF ends a line: U+2028 is legal inside JSON
        for line in lines:
            self._line += line
            self._take_line()
            self._torn = False
        self._line += rest
        if len(self._line) > LONGEST_LINE:
            self._torn = True
            self._take_line()

    def close(self) -> None:
        """Hear that there is no more: a last line needs no end."""
        self._take_line()

    def text(self) -> str:
        """What the result said, else the last of the text."""
        if self._result is None:
            return self._words.text()
        words = Words()
        words.add(self._result.encode())
        return words.text()

    def _take_line(self) -> None:
        line, self._line = bytes(self._line), bytearray()
        event = None if self._torn else _event(line)
        match event:
            case None:
                self._say(line.decode("utf-8", "replace") + "\n" if line.strip() else "")
            case {"type": "text"}:
                self._say(_text(event.get("text")))
            case {"type": "usage"}:
                self.usage |= {name: value for name, value in event.items() if name != "type" and is_plain(value)}
                self._emit(RunnerEvent("usage", data=dict(self.usage)))
            case {"type": "result"}:
                self._result = _text(event.get("text"))
                failed = event.get("status") == FAILED
                self.failure = (_text(event.get("reason")).strip() or "it said that it failed") if failed else ""
            case {"type": str(kind)} if kind in _TOOL_EVENTS:
                text = _text(event.get("text") or event.get("name"))
                self._emit(RunnerEvent(kind, text=text, data={k: v for k, v in event.items() if k != "type"}))
            case _:
                self._say(line.decode("utf-8", "replace") + "\n")

    def _say(self, text: str) -> None:
        if text:
            self._words.add(text.encode())
            self._emit(RunnerEvent("text", text=text))


def verdict(order: Order, end: Exit, heard: Text | JsonLines) -> Result:
    """The one result of an attempt: what ended it comes before what it said of itself."""
    status, reason = COMPLETED, ""
    if end.error:
        status, reason = FAILED, end.error
    elif end.stopped:
        status, reason = INTERRUPTED, end.stopped
    elif end.timed_out:
        status, reason = FAILED, f"timed out after {format_duration(order.timeout)}"
    elif end.signal:
        status, reason = FAILED, f"killed by {_signal_name(end.signal)}"
    elif end.code:
        status, reason = FAILED, f"exited with {end.code}"
    elif heard.failure:
        status, reason = FAILED, heard.failure
    return Result(
        status=status,
        exit=-end.signal if end.signal else end.code,
        reason=reason,
        # Programs that fail often say why on stderr only; nothing else would tell a person.
        text=heard.text() or ("" if status == COMPLETED else end.complaint),
        usage=heard.usage,
        survivors=end.survivors,
    )


def is_plain(value: object) -> bool:
    """True for what may stand in a front matter as it is: words, whole numbers, finite ones."""
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("type"), str) else None


def _text(value: object) -> str:
    """`value` as text that can be written down: JSON can spell half of a character."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.encode("utf-8", "replace").decode()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
