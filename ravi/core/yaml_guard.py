"""YAML that was written by anybody: read event by event, so that nothing is built before it is known to be harmless.

libyaml's composer recurses and dies of 48 KB of `[`; its parser keeps its state on the heap, so the events are safe to
look at. Importing this module imports `yaml` (20 ms): `document` does so only for what `front.quick` cannot read.
"""

import re
from typing import Any, NoReturn

import yaml
from yaml import events

from ravi.core.front import DEPTH, SCALAR_LIMIT, Entry, is_text, resolve
from ravi.errors import Malformed

NODES, ALIASES = 20_000, 64

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LINE_KEY = re.compile(r"\s*(?:- +)?([\w-]+)\s*:")
_COLON = re.compile(r"[ \t]*:")
_BLOCK_HEADER = re.compile(r"[|>][-+0-9]*")


class _Frame:
    """A list or mapping that is still open."""

    __slots__ = ("anchor", "counted", "deepest", "flow", "is_map", "items", "key", "start", "value")

    def __init__(self, event: Any, counted: int) -> None:
        self.is_map = isinstance(event, events.MappingStartEvent)
        self.value: Any = {} if self.is_map else []
        self.flow = bool(event.flow_style)
        self.anchor: str | None = event.anchor
        self.start: int = event.start_mark.index
        self.counted = counted
        self.deepest = 1
        self.key: str | None = None
        self.items: list[tuple[int, int]] = []


class _Builder:
    """Turns events into entries and says no at the first thing that is not allowed."""

    def __init__(self, text: str, first: int, path: str) -> None:
        self.text, self.first, self.path = text, first, path
        self.entries: list[Entry] = []
        self.is_flow = False  # the whole mapping is written as `{…}`
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # name -> value, nodes in it, depth of it
        self.nodes = self.aliases = self.documents = 0
        self.leaf_end = 0  # just after the last letter read: where block lists and mappings really end
        self.key_start = self.key_end = 0  # of the key at the top that waits for its value
        self.line, self.counted_to = first, 0

    def refuse(self, message: str, index: int, *, hint: str = "", key: str | None = None) -> NoReturn:
        line = self.text.count("\n", 0, index)
        if key is None:
            found = _LINE_KEY.match(self.text.split("\n")[line])
            key = found[1] if found else ""
        raise Malformed(message, path=self.path, line=self.first + line, key=key, hint=hint)

    def take(self, event: Any) -> None:
        index = event.start_mark.index
        if isinstance(event, events.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1 or event.explicit:
                self.refuse("a second document starts here; one is allowed", index, key="")
        elif isinstance(event, events.DocumentEndEvent) and event.explicit:
            self.refuse("`...` ends the document here; remove the line", index, key="")
        elif isinstance(event, events.ScalarEvent):
            self.count(event)
            self.scalar(event)
        elif isinstance(event, events.CollectionStartEvent):
            self.count(event)
            self.open(event)
        elif isinstance(event, events.CollectionEndEvent):
            self.close(event)
        elif isinstance(event, events.AliasEvent):
            self.alias(event)

    def count(self, event: Any) -> None:
        if event.tag is not None:
            self.refuse(f"tag `{event.tag}` is not allowed; values are plain", event.start_mark.index)
        self.nodes += 1
        if self.nodes > NODES:
            self.refuse(f"more than {NODES} values", event.start_mark.index)

    def scalar(self, event: Any) -> None:
        said: str = event.value
        index, end = event.start_mark.index, event.end_mark.index
        if len(said) > SCALAR_LIMIT:
            self.refuse(f"a text of {len(said)} letters; {SCALAR_LIMIT} are allowed", index)
        if "\0" in said:
            self.refuse("holds a NUL", index)
        plain = event.implicit[0]
        if self.stack and self.stack[-1].is_map and self.stack[-1].key is None:
            self.take_key(said, plain, index, end)
            if event.anchor:
                self.anchors[event.anchor] = (said, 1, 0)
            return
        style = "" if plain else event.style
        if style in ("|", ">"):
            end = self.trimmed(index, end)
        self.leaf_end = end
        value = resolve(said) if plain else said
        if event.anchor:
            self.anchors[event.anchor] = (value, 1, 0)
        self.place(value, index, end, style)

    def trimmed(self, index: int, end: int) -> int:
        """Where a block text ends: libyaml counts the blank lines behind it, which are nobody's."""
        header = _BLOCK_HEADER.search(self.text, index, end)
        least = header.end() if header else index
        while end > least and self.text[end - 1] in " \t\r\n":
            end -= 1
        while end > least and self.text[end : end + 1] in (" ", "\t"):
            end += 1
        return end

    def take_key(self, key: str, plain: bool, index: int, end: int) -> None:  # noqa: FBT001 - as the event says it
        frame = self.stack[-1]
        if plain and key == "<<":
            self.refuse("merge keys (`<<`) are not read; write the keys out", index, key="")
        if plain and not is_text(key):
            self.refuse(f"key {key or '(nothing)'} is not text; put it in quotes", index, key="")
        if not key.isprintable():
            self.refuse(f"key {key!r} holds what cannot be printed", index, key="")
        if key in frame.value:
            self.refuse("is there twice", index, key=key)
        frame.key = key
        if len(self.stack) == 1:
            self.key_start, self.key_end = index, end

    def open(self, event: Any) -> None:
        index = event.start_mark.index
        if not self.stack:
            if not isinstance(event, events.MappingStartEvent):
                self.not_a_mapping(index)
            self.is_flow = bool(event.flow_style)
        elif self.stack[-1].is_map and self.stack[-1].key is None:
            self.refuse("a key is text, not a list or a mapping", index, key="")
        if len(self.stack) >= DEPTH:
            self.refuse(f"nested more than {DEPTH} deep", index)
        self.stack.append(_Frame(event, self.nodes - 1))

    def not_a_mapping(self, index: int) -> NoReturn:
        self.refuse("is not a mapping; write `key: value` lines", index, key="")

    def close(self, event: Any) -> None:
        frame = self.stack.pop()
        if frame.flow:
            self.leaf_end = event.end_mark.index
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.value, self.nodes - frame.counted, frame.deepest)
        if not self.stack:
            return
        self.stack[-1].deepest = max(self.stack[-1].deepest, frame.deepest + 1)
        style = ("{" if frame.is_map else "[") if frame.flow else (":" if frame.is_map else "-")
        self.place(frame.value, frame.start, self.leaf_end, style, tuple(frame.items) if style == "-" else ())

    def alias(self, event: Any) -> None:
        index = event.start_mark.index
        self.aliases += 1
        if self.aliases > ALIASES:
            self.refuse(f"more than {ALIASES} aliases", index)
        if event.anchor not in self.anchors:
            self.refuse(f"alias `*{event.anchor}` stands for nothing before it", index)
        value, nodes, depth = self.anchors[event.anchor]
        self.nodes += nodes
        if self.nodes > NODES:
            self.refuse(f"more than {NODES} values, aliases counted in full", index)
        if len(self.stack) + depth > DEPTH:
            self.refuse(f"nested more than {DEPTH} deep", index)
        if not self.stack:
            self.not_a_mapping(index)
        if self.stack[-1].is_map and self.stack[-1].key is None:
            self.refuse("a key is text, not an alias", index, key="")
        self.stack[-1].deepest = max(self.stack[-1].deepest, depth + 1)
        self.leaf_end = event.end_mark.index
        self.place(value, index, self.leaf_end, "*")

    def place(self, value: Any, start: int, end: int, style: str, items: tuple[tuple[int, int], ...] = ()) -> None:
        """Put a finished value where it belongs."""
        if not self.stack:
            if value is not None:
                self.not_a_mapping(start)
            return  # nothing but comments
        frame = self.stack[-1]
        if not frame.is_map:
            frame.value.append(value)
            if len(self.stack) == 2 and not frame.flow:
                dash = self.text.rfind("-", 0, start) if start else 0
                frame.items.append((dash, end))
            return
        assert frame.key is not None
        frame.value[frame.key] = value
        if len(self.stack) == 1:
            self.line += self.text.count("\n", self.counted_to, self.key_start)
            self.counted_to = self.key_start
            colon = _COLON.match(self.text, self.key_end)
            at = colon.end() if colon and not self.is_flow else -1
            self.entries.append(Entry(frame.key, value, self.line, self.key_start, at, start, end, style, items))
        frame.key = None


def entries(text: str, first: int, path: str = "") -> tuple[list[Entry], bool]:
    """The entries of the YAML mapping `text`, and whether it is one `{…}`. Raises Malformed with line and key."""
    builder = _Builder(text, first, path)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.reader.ReaderError:
        found = _FORBIDDEN.search(text)
        index = found.start() if found else 0
        builder.refuse(f"holds the control character U+{ord(text[index]) if found else 0:04X}", index)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        if fault.context_mark and mark and mark.index >= len(text.rstrip()):  # "end of stream": say where it began
            mark = fault.context_mark
        hint = "a text that holds `: ` or ` #`, or starts with a sign, needs quotes"
        builder.refuse(
            f"is not YAML: {fault.problem or fault.context}", min(mark.index if mark else 0, len(text)), hint=hint
        )
    return builder.entries, builder.is_flow
