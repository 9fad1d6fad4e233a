"""Events as CloudEvents 1.0 in JSON: how they are told outside, and how what comes from outside is read.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ravi.core.event import Event
from ravi.errors import Malformed

VERSION = "1.0"
LIMIT = 512 * 1024  # bytes of one envelope that comes in


class Envelope(NamedTuple):
    """What came in: the attributes that matter here, and the data. `id` is "" where the sender gave none."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    data: Any


def render(event: Event, workspace: str) -> bytes:
    """An event as one JSON object. `source` names the workspace, `ravicommit` where it stands in the log."""
    told: dict[str, Any] = {
        "specversion": VERSION,
        "id": event.id,
        "type": event.type,
        "source": f"ravi:{workspace}" + (f"/{event.source}" if event.source != "ravi" else ""),
        "subject": event.subject,
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }
    told |= {name: text for name, text in (("time", event.time), ("ravicommit", event.commit)) if text}
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # half a pair, which UTF-8 cannot spell, as JSON escapes it


def parse(data: bytes, place: str) -> Envelope:
    """Read an envelope, or a bare JSON object, which is all data. Raises Malformed, naming `place`."""
    if len(data) > LIMIT:
        raise Malformed(f"{len(data):,} bytes are too many; {LIMIT:,} may come in", path=place)
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise Malformed(f"is not JSON: {fault}", path=place) from None
    if not isinstance(told, dict):
        raise Malformed("is not a JSON object", path=place)
    if "specversion" not in told:
        return Envelope("", "", "", "", "", told)
    if not str(told["specversion"]).startswith("1."):
        raise Malformed(f"CloudEvents {told['specversion']!r} is not read here, 1.0 is", path=place, key="specversion")
    for name in ("id", "type", "source"):
        if not isinstance(told.get(name), str) or not told[name]:
            raise Malformed("a CloudEvent needs it, as text", path=place, key=name)
    if "data_base64" in told:
        raise Malformed("only JSON data is read here", path=place, key="data_base64")
    return Envelope(
        told["id"], told["type"], told["source"], _text(told, "subject"), _text(told, "time"), told.get("data")
    )


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""
