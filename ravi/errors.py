"""Every fault a person can see: what is wrong, where, the next step, and the exit code that says it to a script.

The table of exit codes (spec: `ravi --help` prints it): 0 ok, 1 failed, 2 usage, 3 timeout, 4 not found,
5 refused by state, 6 not permitted, 7 a service is away.
"""


class RaviError(Exception):
    """A fault told in words. The message has the place first; `hint` is the next step.

    `code` is a stable word for scripts (`not_found`), `exit_code` the process's answer.
    """

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RaviError):
    """The words of the call are off."""

    code, exit_code = "usage", 2


class TimedOut(RaviError):
    """It was not finished when the time given was over; nothing was undone."""

    code, exit_code = "timeout", 3


class NotFound(RaviError):
    """There is no such thing."""

    code, exit_code = "not_found", 4


class Refused(RaviError):
    """The state of things does not allow it (a closed task, a held lock, a lost race)."""

    code, exit_code = "refused", 5


class Conflict(Refused):
    """Compare-and-swap lost: somebody else wrote first. Look again, then try again."""

    code = "conflict"


class Deposed(Refused):
    """Another process took over this workspace; what this one still wants to write is not accepted."""

    code = "deposed"


class NotPermitted(RaviError):
    """Who asks may not do this."""

    code, exit_code = "not_permitted", 6


class Unavailable(RaviError):
    """A program or service that is needed is away (git, a disk, a bus)."""

    code, exit_code = "unavailable", 7


class Malformed(RaviError):
    """A document that cannot be read, or says what is not allowed: `path:line: key: what is wrong`."""

    code = "malformed"

    def __init__(self, message: str, *, path: str = "", line: int = 0, key: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.line = line
        self.key = key

    def __str__(self) -> str:
        place = self.path + (f":{self.line}" if self.line else "")
        return ": ".join(part for part in (place, self.key, self.message) if part)
