"""`ravi up`, `ravi daemon`, `ravi status`: the daemon in the foreground and the background, and what is going on."""

from typing import Any

import click

from ravi.cli.main import Face, Noun
from ravi.cli.output import plain
from ravi.core.times import parse_duration

_MOST = 20  # problems that `ravi status` shows on a screen


class Duration(click.ParamType[float]):
    """`30s`, `5m`, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value) if str(value).replace(".", "", 1).isdigit() else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option(
    "--until-idle", is_flag=True, help="Work off everything, retries included, then exit: 0, or 1 if a run died."
)
@click.option(
    "--timeout", type=Duration(), metavar="TIME", help="End after so long. With --until-idle it then exits 3."
)
@click.pass_obj
def up(face: Face, /, until_idle: bool, timeout: float | None) -> int:  # noqa: FBT001 - click passes flags by name
    """Watch the workspace and run agents, in the foreground."""
    from ravi.porcelain.daemon import up

    backbone = None
    if not until_idle:  # nobody stays to listen
        from ravi.porcelain.backbone import backbone_of

        backbone = backbone_of(face.app)
    told = up(face.app, until_idle=until_idle, timeout=timeout, say=face.output.say, backbone=backbone)
    if until_idle:
        face.output.show(told, lambda outcome: outcome["said"])
    return int(told["exit"])


class Daemon(Noun):
    """The noun `daemon`; bare, it tells how the daemon is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["status", *args] if is_bare else args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, command in self.commands.items() if not command.hidden]


@click.group(cls=Daemon)
def daemon() -> None:
    """`ravi up` in the background; the bare noun tells how it is."""


_patience = click.option(
    "--timeout",
    type=Duration(),
    metavar="TIME",
    default=30.0,
    help="How long it may take over ending; 30s unless said.",
)
_force = click.option("--force", is_flag=True, help="Kill what is alive then.")
_manager = click.option(
    "--manager", type=click.Choice(["systemd", "launchd"]), help="Whose service; this system's unless said."
)


@daemon.command()
@click.pass_obj
def start(face: Face, /) -> None:
    """Start it, and come back when it leads and has looked at everything once."""
    from ravi.porcelain import background

    face.output.show(background.start(face.app), _started)


@daemon.command()
@_patience
@_force
@click.pass_obj
def stop(face: Face, /, timeout: float, force: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """End it in order: what runs is stopped, recorded, and run again at the next start."""
    from ravi.porcelain import background

    face.output.show(background.stop(face.app, timeout=timeout, force=force), _stopped)


@daemon.command()
@_patience
@_force
@click.pass_obj
def restart(face: Face, /, timeout: float, force: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """`stop`, then `start`; what was running goes on."""
    from ravi.porcelain import background

    face.output.show(background.restart(face.app, timeout=timeout, force=force), _started)


@daemon.command("status")
@click.pass_obj
def daemon_status(face: Face, /) -> None:
    """Whether it runs, where, since when, and what it does."""
    from ravi.porcelain import background

    face.output.show(background.status(face.app), lambda told: _daemon_page(face, told))


@daemon.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=100, help="The last so many; 100 unless said.")
@click.pass_obj
def logs(face: Face, /, follow: bool, lines: int) -> None:  # noqa: FBT001 - click passes flags by name
    """What it said."""
    from ravi.porcelain import background

    for line in background.logs(face.app, count=lines, follow=follow):
        face.output.line({"line": line}, plain(line))


@daemon.command()
@click.option("--print", "dry", is_flag=True, help="Show the file; write nothing.")
@_manager
@click.pass_obj
def install(face: Face, /, dry: bool, manager: Any) -> None:  # noqa: FBT001 - click passes flags by name
    """Have it started at every login, by systemd or launchd."""
    from ravi.porcelain import service

    told = service.install(face.app, manager, dry=dry)
    face.output.show(told, lambda t: t["text"].rstrip() if dry else _installed(t))


@daemon.command()
@_manager
@click.pass_obj
def uninstall(face: Face, /, manager: Any) -> None:
    """End the service, and have it started no more."""
    from ravi.porcelain import service

    face.output.show(service.uninstall(face.app, manager), _uninstalled)


@daemon.command(hidden=True)
@click.option("--ready", type=int, help="The descriptor of who waits for it to be ready.")
@click.pass_obj
def run(face: Face, /, ready: int | None) -> int:
    """Be the daemon; for `start` and for service managers."""
    from ravi.porcelain import background

    return background.run(face.app, ready=ready)


@click.command()
@click.pass_obj
def status(face: Face, /) -> None:
    """What is going on, and what is wrong."""
    from ravi.porcelain.status import status

    face.output.show(status(face.app), lambda told: _status(face, told))


def _started(told: dict[str, Any]) -> str:
    return f"running, pid {told['pid']}" + _version(told)


def _stopped(told: dict[str, Any]) -> str:
    runs = ", ".join(told["interrupted"])
    return str(told["said"]) + (f"; stopped, and run again at the next start: {runs}" if runs else "")


def _installed(told: dict[str, Any]) -> str:
    later = f"; it starts at the next login: now this workspace is led by {told['led_by']}"
    return f"{told['name']}: {told['file']}" + ("; it runs" if told["started"] else later)


def _uninstalled(told: dict[str, Any]) -> str:
    if not told["removed"]:
        return f"{told['name']} is not installed"
    return f"{told['name']}: removed" + (f", but {told['said']}" if told["said"] else "")


def _version(told: dict[str, Any]) -> str:
    """Of a daemon that is another version than the one that asks."""
    if not told["version"] or told["version"] == told["here"]:
        return ""
    return f", version {told['version']}, and this is {told['here']}: `ravi daemon restart`"


def _leading(told: dict[str, Any]) -> str:
    """Who leads, in a line."""
    if not told["running"]:
        return "not running; `ravi daemon start` starts it, `ravi up` does in the foreground"
    said = f"running, pid {told['pid']}" + _version(told)
    if not told["answers"]:
        return said + ", does not answer"
    return said + (f", ending: {told['stopping']}" if told.get("stopping") else "")


def _daemon_page(face: Face, told: dict[str, Any]) -> str:
    rows = [("daemon", _leading(told))]
    if told["running"]:
        rows.append(("since", f"{told['since']} on {told['host']}" + (f", {told['kind']}" if told["kind"] else "")))
    if told["fault"]:
        rows.append(("fault", told["fault"]))
    if told.get("follows"):
        rows.append(("clones", told["follows"]))
    if told["answers"]:
        nats, queue = told["nats"], told["queue"]
        rows.append(("nats", " ".join(word for word in (nats["url"], nats["said"]) if word)))
        rows.append(("queue", f"{queue['ready']} ready, {queue['waiting']} waiting for their moment"))
    rows.append(("agents", ", ".join(told["agents"]) or "none"))
    rows += [("run", _run(run)) for run in told["runs"]]
    return face.output.table([*rows, ("log", told["log"])])


def _run(run: dict[str, Any]) -> str:
    return f"{run['id']}  {run['agent']}  {run['progress'] or 'since ' + run.get('since', run.get('started', ''))}"


def _status(face: Face, told: dict[str, Any]) -> str:
    rows = [
        ("workspace", f"{told['name']}  {told['workspace']}"),
        (
            "main line",
            f"{told['branch']}  {told['recorded'][:9]}"
            + ("" if told["recorded"] == told["published"] else f", published {told['published'][:9]}"),
        ),
        ("daemon", _leading(told["daemon"])),
        ("tasks", ", ".join(f"{count} {word}" for word, count in told["tasks"].items()) or "none"),
    ]
    if told["dead"]:
        rows.append(("dead", f"{len(told['dead'])}, the last is {told['dead'][0]}; see `ravi dead`"))
    if told["paused"]:
        rows.append(("paused", told["paused"]))
    if told["daemon"]["follows"]:
        rows.append(("clones", told["daemon"]["follows"]))
    rows += [("run", _run(run)) for run in told["runs"]]
    if (nats := told["daemon"]["nats"]) and nats["url"] and not nats["connected"]:
        rows.append(("nats", f"{nats['url']} is away: {nats['said']}"))
    most = _MOST if face.output.out.isatty() else len(told["problems"])
    rows += [("problem", _problem(p)) for p in told["problems"][:most]]
    if (more := len(told["problems"]) - most) > 0:
        rows.append(("", f"and {more} more; `ravi check` shows all"))
    return face.output.table(rows)


def _problem(told: dict[str, Any]) -> str:
    place = told["path"] + (f":{told['line']}" if told["line"] else "")
    return ": ".join(part for part in (place, told["key"], told["message"]) if part)
