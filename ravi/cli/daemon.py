"""`ravi up`, `ravi status`: the daemon in the foreground, and what is going on."""

from typing import Any

import click

from ravi.cli.main import Face
from ravi.core.times import parse_duration


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
@click.option("--timeout", type=Duration(), metavar="TIME", help="Give up after so long and exit 3.")
@click.pass_obj
def up(face: Face, /, until_idle: bool, timeout: float | None) -> int:  # noqa: FBT001 - click passes flags by name
    """Watch the workspace and run agents, in the foreground."""
    from ravi.porcelain import daemon

    told = daemon.up(face.app, until_idle=until_idle, timeout=timeout, say=face.output.say)
    if until_idle:
        face.output.show(told, lambda outcome: outcome["said"])
    return int(told["exit"])


@click.command()
@click.pass_obj
def status(face: Face, /) -> None:
    """What is going on, and what is wrong."""
    from ravi.porcelain import daemon

    face.output.show(daemon.status(face.app), lambda told: _status(face, told))


def _status(face: Face, told: dict[str, Any]) -> str:
    holder = told["daemon"]
    rows = [
        ("workspace", f"{told['name']}  {told['workspace']}"),
        (
            "main line",
            f"{told['branch']}  {told['recorded'][:9]}"
            + ("" if told["recorded"] == told["published"] else f", published {told['published'][:9]}"),
        ),
        ("daemon", f"running, pid {holder['pid']}" if holder["running"] else "not running; `ravi up` starts it"),
        ("tasks", ", ".join(f"{count} {word}" for word, count in told["tasks"].items()) or "none"),
    ]
    if told["dead"]:
        rows.append(("dead", f"{len(told['dead'])}, the last is {told['dead'][0]}; see `ravi dead`"))
    if told["paused"]:
        rows.append(("paused", told["paused"]))
    rows += [
        ("run", f"{run['id']}  {run['agent']}  {run['progress'] or 'since ' + run['started']}") for run in told["runs"]
    ]
    rows += [("problem", _problem(p)) for p in told["problems"]]
    return face.output.table(rows)


def _problem(told: dict[str, Any]) -> str:
    place = told["path"] + (f":{told['line']}" if told["line"] else "")
    return ": ".join(part for part in (place, told["key"], told["message"]) if part)
