"""What `decide` asks for: data, no behaviour. `perform` is the only reader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """What led to an action: the event, the main-line commit that recorded it ("" for a moment that has come, until it
    is asked what that goes back to), and how long the chain is by now.
    """

    event: str
    commit: str
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a run of `task` by `agent` as soon as there is room."""

    task: str
    agent: str
    run: str
    attempt: int
    first: int  # the number of the run that began this piece of work
    cause: Cause
    priority: int = 0
    woken_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """Write `changes` into the front matter of `task`, because of a rule and not because of a run."""

    task: str
    changes: Mapping[str, Any]
    subject: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Tell:
    """Deliver the callback `target` (as in report_to) about `task`: once, whatever is delivered again."""

    task: str
    target: str
    event: str  # idempotency key of this telling
    cause: Cause


@dataclass(frozen=True, slots=True)
class Stop:
    """End a live run."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Look at `task` again at `moment`."""

    task: str
    moment: datetime


Action = Launch | Settle | Tell | Stop | WakeAt


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the end of a run makes true: its last status, its task's new keys, and who is told in the same commit."""

    status: str
    reason: str = ""
    retry_at: str = ""
    summary: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    takes_work: bool = False  # True: outputs come back; False: only RUN.md does
