"""The way to this workspace's NATS for a command: what ravi.yaml or NATS_URL name, else the daemon's own server."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ravi.app import App
from ravi.bus.nats import Address, Link
from ravi.bus.server import access
from ravi.config import Nats
from ravi.errors import Malformed, Unavailable


def address_of(told: Nats, environ: Mapping[str, str]) -> Address | None:
    """Where NATS is by ravi.yaml, else by NATS_URL; None where a server of our own is wanted. Raises Malformed."""
    urls = told.urls or tuple(filter(None, environ.get("NATS_URL", "").split(",")))
    if not urls:
        return None
    found = {}
    for key in Nats._fields[2:]:
        value = getattr(told, key)
        if value.startswith("$"):
            if value[1:] not in environ:
                raise Malformed(f"{value} is not set in the environment", path="ravi.yaml", key=f"nats.{key}")
            value = environ[value[1:]]
        found[key] = value
    return Address(tuple(url.strip() for url in urls), **found)


def folder_of(app: App) -> str:
    """Where the daemon's own server has its store."""
    return os.path.join(app.repository.private, "nats")


@contextmanager
def linked(app: App, patience: float) -> Iterator[Link]:
    """A link for the length of a `with`. Raises Unavailable where there is no NATS after `patience` seconds."""
    if app.settings.nats.off:
        raise Unavailable("NATS is off here (`nats: off` in ravi.yaml)", hint="`ravi events tail` works without")
    address = address_of(app.settings.nats, app.environ) or access(folder_of(app))
    if address is None:
        raise Unavailable("there is no NATS here", hint="`ravi daemon start` starts one; `events tail` works without")
    link = Link(address)
    link.start()
    try:
        if not link.wait(patience):
            raise Unavailable(f"NATS is away: {link.fault}", hint="`ravi daemon status` says more")
        yield link
    finally:
        link.close()
