"""The fields of a kind of document: one table each, from which it is read, checked and described in JSON Schema.

Every reader here takes a value as `core.document` gives it and returns what the noun holds, or raises ValueError with
what is wrong and what would be right. None (a key with nothing after it) never gets here: it is the same as no key.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ravi.core import ids
from ravi.core.times import parse_duration, parse_moment
from ravi.errors import Malformed

# Patterns are compiled when they are first needed: most documents need few of them, and starting up is a feature.
_NAME = r"[^\W_][\w .@+-]{0,63}"
_NUMBER = r"[-+]?[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,2})?"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_TARGET = r"session:[^\s/]+|task:[^\s/]+|chat:[^\s/]+/\S+|https?://[^\s/]\S*|nats:\S+"
_MONEY = r"\$ ?([0-9.]+)|([0-9.]+) ?(?:usd|USD|\$)"
_TOKENS = r"([0-9]+) ?tokens"
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_CHECKS = ("command", "files", "agent", "person")
_MEANT = {  # what other tools call it
    "todo": "open", "ready": "open", "new": "open", "started": "open", "in progress": "open", "in_progress": "open",
    "complete": "done", "completed": "done", "finished": "done", "closed": "done", "fixed": "done",
    "wontfix": "cancelled", "abandoned": "cancelled", "stopped": "cancelled", "error": "failed", "stuck": "blocked",
}  # fmt: skip


class FieldError(ValueError):
    """A value that its field does not take: what is wrong, and what would be right."""


class Field(NamedTuple):
    """One key of a document: its name, what kind of value it takes, and one sentence for people."""

    name: str
    kind: str
    says: str
    default: Any = None  # as a document would spell it
    choices: tuple[str, ...] = ()
    least: float | None = None

    def read(self, value: Any) -> Any:
        """What `value` means here. Raises ValueError (FieldError) with what would be right."""
        return _KINDS[self.kind].read(value, self)

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON Schema: what editors complete and underline."""
        schema: dict[str, Any] = {"description": self.says, **_KINDS[self.kind].schema(self)}
        if self.default is not None:
            schema["default"] = self.default
        return schema


Judge = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]


@dataclass(frozen=True)
class Table:
    """Everything ravi knows of one kind of document. `judge` says what is wrong between fields: (key, message)."""

    noun: str
    says: str
    fields: tuple[Field, ...]
    judge: Judge = lambda _: ()

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    def read(self, front: Mapping[str, Any], path: str, lines: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The known keys of `front`, read; others are the author's. Raises Malformed at the first that is wrong."""
        known, values = self.by_name, {}
        for name, value in front.items():
            if value is None or name not in known:
                continue
            try:
                values[name] = known[name].read(value)
            except ValueError as fault:
                raise Malformed(str(fault), path=path, line=(lines or {}).get(name, 0), key=name) from None
        for name, message in self.judge(values):
            raise Malformed(message, path=path, line=(lines or {}).get(name, 0), key=name)
        return values

    def faults(self, front: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Every (key, message) that is wrong, not only the first."""
        values = {}
        for name, value in front.items():
            if value is None or name not in self.by_name:
                continue
            try:
                values[name] = self.by_name[name].read(value)
            except ValueError as fault:
                yield name, str(fault)
        yield from self.judge(values)


def nearest(word: str, choices: Iterable[str]) -> str:
    """The one of `choices` that `word` was probably meant to be, or nothing."""
    from difflib import get_close_matches  # only a mistake needs it

    return next(iter(get_close_matches(word.lower(), choices, 1, 0.7)), "")


def _text(value: Any, _: Field | None = None) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise FieldError(f"is {_what(value)}; write one text")


def _what(value: Any) -> str:
    return (
        "nothing"
        if value is None
        else "a list"
        if isinstance(value, list)
        else "a mapping"
        if isinstance(value, dict)
        else repr(value)
    )


def _name(value: Any, _: Field) -> str:
    name = _text(value).strip()
    if name and (not re.fullmatch(_NAME, name) or ".." in name):
        raise FieldError(f"`{_shown(name)}` cannot be a name; use letters, figures, `-`, `_`, `.`, at most 64")
    return name


def _id(value: Any, _: Field | None = None) -> str:
    word = _text(value).strip()
    if word and not ids.is_valid(word):
        raise FieldError(f"`{_shown(word)}` cannot be an id; use a-z, 0-9, `-`, `_`, `.`, at most 64")
    return word


def _run_id(value: Any, _: Field) -> str:
    word = _text(value).strip()
    if word and not ids.is_run(word):
        raise FieldError(f"`{_shown(word)}` cannot be a run's id; write TASK.NUMBER")
    return word


def _shown(text: str) -> str:
    """A stranger's word inside a message: on one line, printable, short."""
    plain = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return plain if len(plain) <= 60 else plain[:57] + "..."


def _many(value: Any) -> list[Any]:
    if isinstance(value, dict):
        raise FieldError("is a mapping; write a list: [a, b]")
    return value if isinstance(value, list) else [value]


def _texts(value: Any, _: Field) -> tuple[str, ...]:
    return tuple(_text(item) for item in _many(value) if item is not None)


def _words(value: Any, field: Field) -> tuple[str, ...]:
    """A list, or words with commas between; each once."""
    parts = [part for item in _many(value) if item is not None for part in _text(item).split(",")]
    words = tuple(dict.fromkeys(word for part in parts if (word := part.strip())))
    for word in words:
        if field.choices and word not in field.choices:
            raise FieldError(_unknown(word, field))
    return words


def _ids(value: Any, field: Field) -> tuple[str, ...]:
    return tuple(_id(word) for word in _words(value, field))


def _enum(value: Any, field: Field) -> str:
    word = _text(value).strip()
    if word not in field.choices:
        raise FieldError(_unknown(word, field))
    return word


def _unknown(word: str, field: Field) -> str:
    if field.name == "status" and word in ("running", "waiting"):
        return f"`{word}` is what lists show, never written; write one of {', '.join(field.choices)}"
    meant = nearest(word, field.choices) or _MEANT.get(word.lower(), "")
    noun = field.name.replace("_", " ")
    if meant in field.choices:
        return f"`{_shown(word)}` is not a known {noun}; did you mean `{meant}`?"
    return f"`{_shown(word)}` is not a known {noun}; write one of {', '.join(field.choices)}"


def _int(value: Any, field: Field) -> int:
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,15}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(f"{_shown(repr(value))} is not a whole number")
    _at_least(value, field)
    return value


def _at_least(value: float, field: Field) -> None:
    if field.least is not None and value < field.least:
        raise FieldError(f"{value:g} is too small; at least {field.least:g}")


def _duration(value: Any, field: Field) -> float:
    if value == 0 and not isinstance(value, bool):
        value = "0s"
    if isinstance(value, int) and not isinstance(value, bool):
        raise FieldError(f"{value} of what? write {value}s, {value}m or {value}h")
    seconds = parse_duration(value)
    _at_least(seconds, field)
    return seconds


def _moment(value: Any, _: Field) -> str:
    text = _text(value).strip()
    if text:
        parse_moment(text)
    return text


def _bool(value: Any, _: Field) -> bool:
    flag = value if isinstance(value, bool) else _FLAGS.get(_text(value).strip().lower())
    if flag is None:
        raise FieldError(f"`{_shown(_text(value))}` is neither true nor false")
    return flag


def _mapping(value: Any, _: Field | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(f"is {_what(value)}; write a mapping: `key: value` lines below it")
    return value


def _figures(value: Any, _: Field) -> dict[str, Any]:
    """A mapping whose figures become numbers: `cost: 0.12`."""
    return {name: _figure(inner) for name, inner in _mapping(value).items()}


def _figure(value: Any) -> Any:
    return float(value) if isinstance(value, str) and re.fullmatch(_NUMBER, value) else value


def _environment(value: Any, _: Field) -> dict[str, str]:
    for name in _mapping(value):
        if not re.fullmatch(_VARIABLE, name):
            raise FieldError(f"`{_shown(name)}` cannot be the name of a variable")
    return {name: "" if inner is None else _text(inner) for name, inner in value.items()}


def _relations(value: Any, field: Field) -> dict[str, tuple[str, ...]]:
    return {name: _ids(inner, field) for name, inner in _mapping(value).items() if inner is not None}


def _command(value: Any, _: Field) -> tuple[str, ...]:
    if isinstance(value, list):
        words = tuple(_text(item) for item in value)
    else:
        from shlex import split  # a command in one text is the rarer way

        try:
            words = tuple(split(_text(value)))
        except ValueError:
            raise FieldError("has a quote without its partner; write a list: [program, argument]") from None
    if not words or not words[0]:
        raise FieldError("names no program; write a list: [program, argument]")
    return words


def _steps(value: Any, _: Field) -> tuple[Mapping[str, Any], ...]:
    steps = _many(value)
    for step in steps:
        if not isinstance(step, dict | str):
            raise FieldError(f"holds {_what(step)}; each step is a mapping, or a text to say")
    return tuple({"text": step} if isinstance(step, str) else step for step in steps)


def _checks(value: Any, _: Field) -> tuple[Mapping[str, Any], ...]:
    checks = []
    for check in [value] if isinstance(value, dict) else _many(value):
        if isinstance(check, str):
            checks.append({"command": check})
        elif isinstance(check, dict) and sum(name in check for name in _CHECKS) == 1:
            checks.append(check)
        else:
            raise FieldError(f"each check names one of {', '.join(_CHECKS)}: `- command: just test`")
    return tuple(checks)


def _targets(value: Any, _: Field) -> tuple[str, ...]:
    targets = _texts(value, _)
    for target in targets:
        if not re.fullmatch(_TARGET, target):
            forms = "session:NAME, task:ID, chat:CHANNEL/ID, https://… or nats:SUBJECT"
            raise FieldError(f"`{_shown(target)}` is no place to report to; write {forms}")
    return targets


def _budget(value: Any, _: Field) -> dict[str, float]:
    """`$2.50`, `50000 tokens`, or both as a mapping `{usd: 2.50, tokens: 50000}`."""
    if isinstance(value, dict):
        amounts = {name: _figure(inner) for name, inner in value.items()}
    else:
        said = _text(value).strip()
        if money := re.fullmatch(_MONEY, said):
            amounts = {"usd": _figure(money[1] or money[2])}
        elif tokens := re.fullmatch(_TOKENS, said):
            amounts = {"tokens": _figure(tokens[1])}
        else:
            raise FieldError(f"`{_shown(said)}` is no budget; write $2.50, or 50000 tokens")
    for name, amount in amounts.items():
        if (
            name not in ("usd", "tokens")
            or isinstance(amount, bool)
            or not isinstance(amount, int | float)
            or amount < 0
        ):
            raise FieldError("is no budget; write {usd: 2.50, tokens: 50000}")
    return amounts


def _any(value: Any, _: Field) -> Any:
    return value


class _Kind(NamedTuple):
    read: Callable[[Any, Field], Any]
    schema: Callable[[Field], dict[str, Any]]


_ONE = {"type": ["string", "number", "boolean", "null"]}
_ID = {"type": ["string", "number", "null"], "pattern": r"^[a-z0-9][a-z0-9._-]{0,63}$"}
_DURATION = {"type": ["string", "null"], "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"}


def _always(schema: dict[str, Any]) -> Callable[[Field], dict[str, Any]]:
    return lambda _: schema


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "array", "items": item}, item, {"type": "null"}]}


_KINDS: Mapping[str, _Kind] = {
    "text": _Kind(_text, _always(_ONE)),
    "name": _Kind(_name, _always(_ONE)),
    "id": _Kind(_id, _always(_ID)),
    "run id": _Kind(_run_id, _always(_ONE)),
    "text list": _Kind(_texts, _always(_list_of(_ONE))),
    "word list": _Kind(_words, lambda field: _list_of({"enum": list(field.choices)} if field.choices else _ONE)),
    "id list": _Kind(_ids, _always(_list_of(_ID))),
    "enum": _Kind(_enum, lambda field: {"enum": [*field.choices, None]}),
    "int": _Kind(
        _int, lambda field: {"type": ["integer", "null"], **({} if field.least is None else {"minimum": field.least})}
    ),
    "duration": _Kind(_duration, _always({"anyOf": [_DURATION, {"const": 0}]})),
    "moment": _Kind(_moment, _always({"type": ["string", "null"], "examples": ["2026-11-20T10:22:33Z", "2026-11-20"]})),
    "bool": _Kind(_bool, _always({"type": ["boolean", "null"]})),
    "mapping": _Kind(_mapping, _always({"type": ["object", "null"]})),
    "figures": _Kind(_figures, _always({"type": ["object", "null"]})),
    "environment": _Kind(_environment, _always({"type": ["object", "null"], "additionalProperties": _ONE})),
    "relations": _Kind(_relations, _always({"type": ["object", "null"], "additionalProperties": _list_of(_ID)})),
    "command": _Kind(_command, _always(_list_of(_ONE))),
    "steps": _Kind(_steps, _always(_list_of({"type": ["object", "string"]}))),
    "checks": _Kind(_checks, _always(_list_of({"type": ["object", "string"]}))),
    "target list": _Kind(_targets, _always(_list_of({"type": "string"}))),
    "budget": _Kind(_budget, _always({"type": ["object", "string", "null"]})),
    "any": _Kind(_any, _always({})),
}
