"""Who asks: the operator at this machine's shell, or a run speaking through its token."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the operator needs no run
    from ravi.core.run import Run


class Actor(NamedTuple):
    """A name and an address, as commits show them; `run` is None for the operator."""

    name: str
    email: str
    run: "Run | None" = None

    @property
    def is_operator(self) -> bool:
        return self.run is None
