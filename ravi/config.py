"""Settings: ravi.yaml as a value. It reads no environment and no file itself."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ravi.core.times import parse_duration
from ravi.errors import Malformed


class Nats(NamedTuple):
    """Where NATS is, and what opens it. Without `urls` a server of our own is started; `off` is none at all.

    A text that begins with `$` is the name of a variable of the environment. `creds`, `ca`, `cert`, `key` are files.
    """

    off: bool = False
    urls: tuple[str, ...] = ()
    token: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""


class Settings(NamedTuple):
    """Every setting with its default; an empty ravi.yaml is a good one."""

    name: str = "ravi"  # the workspace's name, as subjects and status show it
    branch: str = ""  # the main line; "" is the branch that was checked out at `ravi init`
    ingest: Literal["auto", "manual"] = "auto"
    quiet: float = 1.0  # seconds a saved file must lie still before it is taken
    max_runs: int = 4  # here; 0 leaves all of them to workers
    max_depth: int = 24  # links in a chain of causes
    max_output: int = 8 * 1024 * 1024  # bytes kept of what a run prints
    remote: str = "origin"  # the git remote that the clones of this workspace share
    sync: float = 0.0  # seconds between syncs while the daemon runs; 0 is never
    nats: Nats = Nats()


DEFAULTS = Settings()


def read(front: Mapping[str, Any]) -> Settings:
    """The settings in a parsed ravi.yaml. Unknown keys are left to other versions. Raises Malformed naming the key."""
    limits = front.get("limits") or {}
    if not isinstance(limits, Mapping):
        raise Malformed("is not a mapping", path="ravi.yaml", key="limits")
    told = front.get("ingest") or "auto"
    if told not in ("auto", "manual"):
        raise Malformed(f"{told!r} is neither auto nor manual", path="ravi.yaml", key="ingest")
    ingest: Literal["auto", "manual"] = "manual" if told == "manual" else "auto"
    return Settings(
        name=str(front.get("name") or "ravi"),
        branch=str(front.get("branch") or ""),
        ingest=ingest,
        quiet=_duration(front, "quiet", DEFAULTS.quiet),
        max_runs=_count(front, "max_runs", DEFAULTS.max_runs, least=0),
        max_depth=_count(limits, "depth", DEFAULTS.max_depth),
        max_output=_count(limits, "output", DEFAULTS.max_output),
        remote=str(front.get("remote") or DEFAULTS.remote),
        nats=_nats(front),
        sync=_duration(front, "sync", DEFAULTS.sync),
    )


def _duration(front: Mapping[str, Any], key: str, default: float) -> float:
    if front.get(key) is None:
        return default
    try:
        return parse_duration(front[key])
    except ValueError as error:
        raise Malformed(str(error), path="ravi.yaml", key=key) from None


def _count(front: Mapping[str, Any], key: str, default: int, *, least: int = 1) -> int:
    value = front.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Malformed(
            f"{value!r} is not a whole number{' above 0' if least else ', 0 or above'}", path="ravi.yaml", key=key
        )
    return value


def _nats(front: Mapping[str, Any]) -> Nats:
    """`off`, a URL, several of them, or a mapping with `url` and what opens it."""
    told = front.get("nats")
    if told is None or told in ("", "auto"):
        return Nats()
    if told is False or told == "off":
        return Nats(off=True)
    found = dict(told) if isinstance(told, Mapping) else {"url": told}
    urls = found.pop("url", ())
    listed = tuple([urls] if isinstance(urls, str) else urls if isinstance(urls, (list, tuple)) else [None])
    if not all(isinstance(url, str) and url for url in listed):
        raise Malformed(f"{urls!r} is no URL, and no list of them", path="ravi.yaml", key="nats.url")
    for key, value in found.items():
        if key not in Nats._fields[2:]:
            known = ", ".join(("url", *Nats._fields[2:]))
            raise Malformed(f"is not known; there are: {known}", path="ravi.yaml", key=f"nats.{key}")
        if not isinstance(value, str):
            raise Malformed("is not text", path="ravi.yaml", key=f"nats.{key}")
    return Nats(urls=tuple(str(url) for url in listed), **found)
