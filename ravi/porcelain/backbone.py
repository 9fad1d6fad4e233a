"""The backbone: the daemon's side of NATS. Events go out, what comes in at the doors is committed and answered.

Everything here may be away for hours; the workspace works on by itself. Every thread ends with `close`.
"""

import threading
from typing import Any

from ravi.app import App
from ravi.bus.nats import Address, Link
from ravi.bus.outlet import Outlet
from ravi.bus.server import NatsServer
from ravi.core.subjects import named
from ravi.engine.perform import Elsewhere
from ravi.errors import RaviError
from ravi.porcelain.crew import Crew
from ravi.porcelain.daemon import Backbone, Hooks, NoBackbone
from ravi.porcelain.entrance import Entrance
from ravi.porcelain.nats import address_of, folder_of
from ravi.store.history import MainLine, Note

_PULSE = 1.0  # seconds between looks at the link


def backbone_of(app: App) -> Backbone:
    """What ravi.yaml asks for: NATS, unless it is off."""
    return NoBackbone() if app.settings.nats.off else NatsBackbone()


class NatsBackbone:
    """A link, an outlet, the doors; and the server, where it is ours."""

    def __init__(self) -> None:
        self._address: Address | None = None
        self._server: NatsServer | None = None
        self._link: Link | None = None
        self._outlet: Outlet | None = None
        self._entrance: Entrance | None = None
        self._said = "starting"
        self._crew = Crew()
        self.elsewhere: Elsewhere | None = self._crew
        self._closing = threading.Event()
        self._stir = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ravi-backbone", daemon=True)

    def start(self, hooks: Hooks) -> None:
        """Begin, in threads of our own."""
        self._hooks = hooks
        self._app = App(hooks.app.root, hooks.app.environ, hooks.app.now)
        self._app.writes_out = False  # the loop does
        self._names = named(hooks.app.settings.name)
        self._address = address_of(hooks.app.settings.nats, hooks.app.environ)
        self._thread.start()

    def ring(self) -> None:
        """The main line moved."""
        if self._outlet is not None:
            self._outlet.ring()

    def status(self) -> dict[str, Any]:
        """`url`, `pid`, `connected`, `managed`, `said`, and what came through since the start."""
        link, server = self._link, self._server
        is_connected = link is not None and link.connected
        fault = "" if is_connected else (server.said if server else "") or (link.fault if link else "")
        return {
            "url": link.url if link is not None else None,
            "pid": (server.pid or None) if server is not None else None,
            "connected": is_connected,
            "managed": self._address is None,
            "said": self._said or fault,
            "told": self._outlet.told if self._outlet is not None else 0,
            "taken": self._entrance.taken if self._entrance is not None else 0,
            "refused": self._entrance.refused if self._entrance is not None else 0,
        }

    def close(self) -> None:
        """End in order: nothing new comes in, what was taken is answered, what was recorded is told."""
        self._closing.set()
        self._stir.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._begin()
            while not self._closing.is_set():
                self._stir.wait(_PULSE)
                self._stir.clear()
                if self._entrance is not None and not self._closing.is_set():
                    self._entrance.look()
        except RaviError as fault:
            self._said = str(fault)
            self._hooks.say(f"NATS: {fault}; this workspace goes on without")
            self._closing.wait()
        finally:
            self._end()

    def _begin(self) -> None:
        address = self._address
        if address is None:
            self._server = NatsServer(folder_of(self._app))
            address = self._server.start()
        line = MainLine(self._app.repository)
        line.begin("nats")
        self._link = Link(address, on_change=self._changed)
        repository = self._app.repository
        self._outlet = Outlet(line, self._link, self._names, Note(repository, "nats/out"), say=self._hooks.say)
        self._entrance = Entrance(self._app, self._link, self._names, Note(repository, "nats/in"), self._hooks.say)
        self._link.start()
        self._outlet.start()
        self._crew.start(self._hooks.app, self._link, self._names, self._hooks.say)
        self._said = ""

    def _changed(self, is_connected: bool) -> None:  # noqa: FBT001 - the link calls it so
        if self._link is not None:
            self._hooks.say(f"NATS: {'connected to ' + self._link.url if is_connected else 'away'}")
        self._stir.set()
        self.ring()

    def _end(self) -> None:
        self._crew.close()
        if self._entrance is not None:
            self._entrance.close()
        if self._outlet is not None:
            self._outlet.close()
        if self._link is not None:
            self._link.close()
        if self._server is not None:
            self._server.stop()
        self._app.close()
