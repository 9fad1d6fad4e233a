"""The `scripted` runner: plays back the steps of `Order.script`. It serves the demo, tests and dry runs."""

import contextlib
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ravi.core.times import format_duration, parse_duration
from ravi.runners.base import COMPLETED, FAILED, INTERRUPTED, Order, Result, RunnerEvent, Status, Stop
from ravi.runners.command import PROMPT, Text, is_plain, verdict
from ravi.runners.log import Log, Words
from ravi.runners.process import Processes


class ScriptedRunner:
    """Plays steps back in order. A step is a mapping with one of these verbs:

    `say: text` · `write: path` with `text: …` · `delete: path` · `wait: 2s` · `ravi: [verb, …]` · `run: [program, …]` ·
    `usage: {…}` · `fail: reason`. Paths lie under the working directory; `{prompt}` in a text becomes the prompt.
    Only `ravi` and `run` start a child, in `processes`; one that does not end well ends the play.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self._processes = processes

    def run(self, order: Order, emit: Callable[[RunnerEvent], None], on_stop: Callable[[Stop], None]) -> Result:
        """Play the script back and block until its end."""
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(contextlib.closing(Log(order.log, order.limit)))
            processes = self._processes or stack.enter_context(Processes())  # which starts nothing until it must
            return _Play(order, emit, log, processes).play(on_stop)


_Ending = tuple[Status, str]  # the status and the reason; no step after it is played


class _Play:
    def __init__(self, order: Order, emit: Callable[[RunnerEvent], None], log: Log, processes: Processes) -> None:
        self.order, self.emit, self.log, self.processes = order, emit, log, processes
        self.words = Words()
        self.usage: dict[str, Any] = {}
        self.exit: int | None = None
        self.survivors = 0
        self.until = time.monotonic() + order.timeout
        self.asked = threading.Condition()
        self.reason = ""  # why it is to stop
        self.child: Stop | None = None
        self.verbs: dict[str, Callable[[Any, Mapping[str, Any]], _Ending | None]] = {
            "say": self.say,
            "write": self.write,
            "delete": self.delete,
            "wait": self.wait,
            "ravi": lambda words, _: self.start("ravi", *_words(words)),
            "run": lambda words, _: self.start(*_words(words)),
            "usage": self.count,
            "fail": lambda reason, _: (FAILED, str(reason)),
        }

    def play(self, on_stop: Callable[[Stop], None]) -> Result:
        on_stop(self.stop)
        ending = self.interruption()
        if ending is None and not os.path.isdir(self.order.cwd):
            ending = FAILED, f"cannot work in {self.order.cwd}: No such file or directory"
        if ending is None:
            self.emit(RunnerEvent("started", data={"pid": 0, "pgid": 0, "start": 0}))
        for number, step in enumerate(self.order.script, start=1):
            ending = ending or self.interruption() or self.step(step, number)
        status, reason = ending or self.interruption() or (COMPLETED, "")
        if status == COMPLETED:
            self.exit = 0
        return Result(status, self.exit, reason, self.words.text(), self.usage, self.survivors)

    def stop(self, reason: str) -> None:
        with self.asked:
            self.reason = self.reason or reason or "stopped"
            self.asked.notify_all()
            child = self.child
        if child is not None:
            child(reason)

    def interruption(self) -> _Ending | None:
        if self.reason:
            return INTERRUPTED, self.reason
        if time.monotonic() >= self.until:
            return FAILED, f"timed out after {format_duration(self.order.timeout)}"
        return None

    def step(self, step: Mapping[str, Any], number: int) -> _Ending | None:
        verb = next((verb for verb in self.verbs if verb in step), "")
        if not verb:
            return FAILED, f"step {number} of the script has no verb; it is one of {', '.join(self.verbs)}"
        try:
            return self.verbs[verb](step[verb], step)
        except (OSError, ValueError, TypeError) as fault:
            return FAILED, f"step {number} of the script, {verb}: {fault}"

    def say(self, text: object, _: Mapping[str, Any]) -> None:
        self.hear(self.filled(text).rstrip("\n").encode("utf-8", "replace") + b"\n")

    def hear(self, data: bytes) -> None:
        self.words.add(data)
        self.log.write(data)
        self.emit(RunnerEvent("text", text=data.decode("utf-8", "replace")))

    def write(self, path: object, step: Mapping[str, Any]) -> None:
        place = self.place(path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8", newline="") as file:
            file.write(self.filled(step.get("text", "")))

    def delete(self, path: object, _: Mapping[str, Any]) -> None:
        os.unlink(self.place(path))

    def wait(self, duration: object, _: Mapping[str, Any]) -> None:
        seconds = parse_duration(duration)
        with self.asked:
            self.asked.wait_for(lambda: self.reason, max(min(seconds, self.until - time.monotonic()), 0))

    def count(self, usage: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        self.usage |= {str(name): value for name, value in usage.items() if is_plain(value)}
        self.emit(RunnerEvent("usage", data=dict(self.usage)))

    def start(self, *command: str) -> _Ending | None:
        filled = tuple(word.replace(PROMPT, self.order.prompt) for word in command)
        order = replace(self.order, command=filled, prompt="", timeout=max(self.until - time.monotonic(), 0))
        heard = Text(self.emit)

        def hear(data: bytes) -> None:
            self.words.add(data)
            heard.add(data)

        end = self.processes.run(order, hear, lambda *_: None, self.hold, log=self.log)
        heard.close()
        result = verdict(self.order, end, heard)
        self.survivors += result.survivors
        if result.status == COMPLETED:
            return None
        self.exit = result.exit
        if end.complaint:
            self.words.add(end.complaint.encode())
        return result.status, result.reason if end.stopped or end.timed_out else f"`{command[0]}`: {result.reason}"

    def hold(self, child: Stop) -> None:
        with self.asked:
            self.child, reason = child, self.reason
        if reason:
            child(reason)

    def filled(self, text: object) -> str:
        return str(text).replace(PROMPT, self.order.prompt)

    def place(self, path: object) -> str:
        """Where `path` is on disk. A script writes below its working directory, and through no link out of it."""
        home = os.path.realpath(self.order.cwd)
        place = os.path.realpath(os.path.join(home, str(path)))
        if not place.startswith(home + os.sep):
            raise ValueError(f"{path} is not below the working directory")
        return place


def _words(command: object) -> tuple[str, ...]:
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in _sequence(command)]
    if not words:
        raise ValueError("there is no word in it")
    return tuple(words)


def _sequence(value: object) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError("a list of words is wanted")
    return tuple(value)
