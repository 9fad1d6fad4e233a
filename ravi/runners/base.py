"""The contract of runners: an order in, canonical events out, one result at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["completed", "failed", "interrupted"]
COMPLETED: Status = "completed"
FAILED: Status = "failed"
INTERRUPTED: Status = "interrupted"


@dataclass(frozen=True, slots=True)
class Order:
    """What one attempt is asked to do. Everything the child may know is in here; nothing is inherited."""

    run: str
    prompt: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    timeout: float  # seconds of wall time, then TERM, then KILL
    log: Path  # what it prints goes here, bounded; readable while it runs
    script: tuple[Mapping[str, Any], ...] = ()
    output: Literal["text", "jsonl"] = "text"
    grace: float = 5.0  # seconds between TERM and KILL
    limit: int = 8 * 1024 * 1024  # bytes of output kept in the log; the middle is left out, and it is said


@dataclass(frozen=True, slots=True)
class RunnerEvent:
    """One canonical event: `started` (data: pid), `text`, `tool.started`, `tool.ended`, `usage`."""

    type: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended; exactly one for every order. An expected failure is a value here, never an exception."""

    status: Status
    exit: int | None = None  # the child's exit code, or minus the signal that ended it
    reason: str = ""  # in words, when it did not complete: `exited with 3`, `timed out after 2s`, `not found: foo`
    text: str = ""  # its last words, bounded: what the result says to people
    usage: Mapping[str, Any] = field(default_factory=dict)
    survivors: int = 0  # descendants that had to be killed after it ended


class Stop(Protocol):
    """How the loop asks a running attempt to end; may be called from any thread, more than once."""

    def __call__(self, reason: str) -> None: ...


class Runner(Protocol):
    """Carries out one order and blocks until it ended with all its descendants.

    `emit` is called from the runner's thread. `on_stop` is handed a `Stop` before the child starts.
    """

    def run(self, order: Order, emit: Callable[[RunnerEvent], None], on_stop: Callable[[Stop], None]) -> Result: ...
