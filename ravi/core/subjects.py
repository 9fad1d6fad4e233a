"""The names that a workspace has on NATS: subjects, streams, durables. They are made here and nowhere else."""

import re
from typing import Final, NamedTuple

DOORS: Final = ("task", "comment", "prompt", "approval", "event")
_UNSAFE = re.compile(r"[^a-z0-9]+")
_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")


class Names(NamedTuple):
    """Every name of one workspace; `name` is one token, as `named` makes it."""

    name: str

    def event(self, kind: str) -> str:
        """Where events of a kind (`task.created`, `task.*`, `>`) are told."""
        return f"ravi.{self.name}.event.{kind}"

    def door(self, name: str) -> str:
        """Where a door (`task`, or `>` for all) takes what comes in."""
        return f"ravi.{self.name}.in.{name}"

    def orders(self, agent: str = "*") -> str:
        """Where orders for runs of an agent wait for a worker."""
        return f"ravi.{self.name}.run.{agent}"

    def order(self, agent: str, worker: str) -> str:
        """Where an order waits for one worker."""
        return self.orders(f"{safe(agent)}.{worker}")

    def worker(self, name: str) -> str:
        """Where a worker is asked for something; and under the name `news`, where all of them tell the leader."""
        return f"ravi.{self.name}.worker.{name}"

    def bucket(self, of: str) -> str:
        """A bucket's name: `workers`."""
        return f"ravi_{self.name}_{of}"

    def dead(self, kind: str) -> str:
        """Where what was given up is told."""
        return f"ravi.{self.name}.dead.{kind}"

    def any(self, rest: str) -> str:
        """A subject of this workspace by its last words: `in.task`, `event.task.created`."""
        return f"ravi.{self.name}.{rest}"

    def stream(self, of: str) -> str:
        """A stream's name, which may hold no dots: `EVENTS`, `IN`, `RUN`, `DEAD`."""
        return f"RAVI_{self.name.upper().replace('-', '_')}_{of}"


def named(name: str) -> Names:
    """The names of the workspace that ravi.yaml calls `name`; anything but letters and digits becomes `-`."""
    return Names(safe(name) or "ravi")


def safe(name: str) -> str:
    """A name as one word of a subject."""
    return _UNSAFE.sub("-", name.lower()).strip("-")


def is_kind(text: str) -> bool:
    """True when `text` may be an event's type: words of letters, digits, `_` and `-`, with dots between."""
    return len(text) <= 128 and _TYPE.match(text) is not None


def matches(kind: str, pattern: str) -> bool:
    """True when a type fits a pattern of NATS: `*` is one word, `>` at the end is all that is left."""
    words = kind.split(".")
    asked = pattern.split(".")
    for place, want in enumerate(asked):
        if want == ">" and place == len(asked) - 1:
            return len(words) > place
        if place >= len(words) or want not in ("*", words[place]):
            return False
    return len(words) == len(asked)
