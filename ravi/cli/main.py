"""The command line: the group of all nouns, and the one place where a fault becomes words and an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ravi import __version__
from ravi.cli.output import Output
from ravi.errors import RaviError, Unavailable, UsageError

if TYPE_CHECKING:
    from ravi.app import App

# name -> (module, what it is); modules load when their command runs
COMMANDS = {
    "init": ("start", "Make a workspace."),
    "demo": ("start", "Watch agents work, in a workspace made for it."),
    "up": ("daemon", "Watch the workspace and run agents, in the foreground."),
    "daemon": ("daemon", "`ravi up` in the background: start, stop, restart, status, logs, install, uninstall."),
    "sync": ("sync", "Bring this clone and the shared remote to one main line."),
    "worker": ("workers", "Carry out runs for the clone that leads, on this machine."),
    "workers": ("workers", "Who carries out runs for this workspace."),
    "status": ("daemon", "What is going on, and what is wrong."),
    "tasks": ("tasks", "Work with a status and an assignee."),
    "agents": ("agents", "Who takes turns."),
    "runs": ("runs", "One agent asked to do one thing."),
    "dead": ("runs", "Runs with no attempts left."),
    "events": ("events", "What happened, event by event; and the doors for what comes in."),
    "log": ("history", "What happened, newest first."),
    "tree": ("history", "Who spawned whom."),
    "why": ("history", "Why a run, a task or a commit came to be."),
    "check": ("checks", "Look for mistakes in the files as they lie."),
    "schema": ("checks", "The JSON Schema of a document."),
    "doctor": ("checks", "What this machine and repository can do."),
    "merge-driver": ("checks", "Merge a document for git."),
}
ALIASES = {"task": "tasks", "agent": "agents", "run": "runs"}
HIDDEN = {"merge-driver"}
EXIT_CODES = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 timeout, 4 not found, 5 refused by state, 6 not permitted, "
    "7 a service is away. Any command takes --json: then stdout is JSON, and an error is one object "
    "{error, code, hint, warnings} on stderr."
)


class Face:
    """What every command is given: the way out, and the workspace, opened when first asked for."""

    def __init__(self, output: Output, workspace: str) -> None:
        self.output = output
        self.workspace = workspace
        self._app: App | None = None

    @property
    def app(self) -> "App":
        """The workspace that the call is about. Raises NotFound when there is none."""
        if self._app is None:
            from ravi.app import App

            self._app = App.find(self.workspace, dict(os.environ))
        return self._app

    @property
    def notices(self) -> list[str]:
        """What the person should know though it is no fault."""
        return [] if self._app is None else self._app.notices

    def close(self) -> None:
        if self._app is not None:
            self._app.close()


class Nouns(click.Group):
    """The group of all commands; a module is imported only when its command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ravi.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return (
            super().resolve_command(ctx, args)
            if self.get_command(ctx, args[0])
            else _unknown(args[0], [*COMMANDS, *ALIASES])
        )


class Noun(click.Group):
    """A noun with verbs; the bare noun lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_list = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["list", *args] if is_list else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return (
            super().resolve_command(ctx, args)
            if self.get_command(ctx, args[0])
            else _unknown(args[0], list(self.commands))
        )


def _unknown(word: str, known: list[str]) -> Any:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    raise UsageError(
        f"no command `{word}`" + (f"; did you mean `{near[0]}`?" if near else ""), hint="see `ravi --help`"
    )


def _version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's way
    if asked and not ctx.resilient_parsing:
        ctx.obj.output.show({"version": __version__}, lambda told: f"ravi {told['version']}")
        ctx.exit()


@click.group(
    cls=Nouns, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.option(
    "--workspace",
    "-C",
    metavar="DIR",
    default="",
    help="The workspace; else RAVI_WORKSPACE, else the nearest ravi.yaml upwards.",
)
@click.pass_context
def cli(ctx: click.Context, workspace: str) -> None:
    """A filesystem-native, git-backed operating layer for personal agents."""
    ctx.obj.workspace = workspace


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. `--json` is taken anywhere before a bare `--`."""
    args = list(argv)
    end = args.index("--") if "--" in args else len(args)
    as_json = "--json" in args[:end]
    _have_streams(as_json=as_json)
    args = [word for word in args[:end] if word != "--json"] + args[end:]
    face = Face(Output(as_json=as_json), "")
    try:
        result = cli.main(args=args, prog_name="ravi", standalone_mode=False, obj=face)
        for notice in face.notices:
            face.output.warn(notice)
        return result if isinstance(result, int) else 0
    except RaviError as error:
        return face.output.fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        face.output.err.write(error.format_message() + "\n")
        return 2
    except click.UsageError as error:
        hint = f"see `{error.ctx.command_path} --help`" if error.ctx else ""
        return face.output.fail(UsageError(error.format_message(), hint=hint))
    except click.ClickException as error:
        return face.output.fail(RaviError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        _quiet_stdout()
        return 0
    except OSError as error:
        return face.output.fail(Unavailable(f"{error.filename or 'the system'}: {error.strerror or error}"))
    finally:
        face.close()


def _have_streams(*, as_json: bool) -> None:
    """Have somewhere to write in any surroundings: JSON is UTF-8, and what a locale cannot spell is escaped."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # whoever called us closed it
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")


def _quiet_stdout() -> None:
    """Whoever read our output left; Python must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
