"""What README and docs say is so: the commands at the top are those that CI runs, every command and option they name
exists, and docs/cli.md is what `--help` says.
"""

import re
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ravi.cli.main import cli
from ravi.cli.reference import reference

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "AGENTS.md",
    ROOT / "workspace.example" / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "cli.md"),
]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def _commands() -> list[str]:
    """The two lines at the top of README.md."""
    return _BLOCK.findall((ROOT / "README.md").read_text())[0].strip().split("\n")


def test_the_two_commands_of_the_readme_are_those_that_ci_and_just_run() -> None:
    run, test = (line for line in _commands() if not line.startswith("#") and line)
    ci, just = (ROOT / ".ci" / "run").read_text(), (ROOT / "justfile").read_text()
    for line in (run, test):
        assert f'run "{line}"\n' in ci
        assert f"\n    {line}\n" in just
    assert ci.index(test) < ci.index("ruff check") < ci.index("ruff format --check") < ci.index("mypy") < ci.index(run)


def test_ci_can_be_run_and_ends_at_the_first_fault() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "\nset -euo pipefail\n" in script.read_text()


def _said(page: Path) -> Iterator[list[str]]:
    """Every call of ravi that a page names, as words after `ravi`."""
    text = page.read_text()
    spans = [line for block in _BLOCK.findall(text) for line in block.split("\n")]
    spans += _INLINE.findall(_BLOCK.sub("", text))
    for span in spans:
        call = re.match(r"(?:\$ )?(?:\S*/)?ravi (\S.*)", span.strip())
        if call:
            yield shlex.split(re.split(r"\s{2,}|\s(?:#|&&|\|)\s", call[1])[0])


def _session() -> Iterator[tuple[str, str]]:
    """Each command of the session in README.md, with what it prints; … stands for any lines."""
    (block,) = [block for block in _BLOCK.findall((ROOT / "README.md").read_text()) if block.startswith("$ ")]
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def test_the_session_in_the_readme_is_what_happens(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "ravi").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ravi "$@"\n')
    (tmp_path / "ravi").chmod(0o755)
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    here = tmp_path
    for command, printed in _session():
        done = subprocess.run(
            ["bash", "-c", command], cwd=here, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        )
        expected = re.escape(printed).replace("…\\\n", "(?:.*\\n)*")
        expected = re.sub(r"\d\d:\d\d:\d\d", r"\\d\\d:\\d\\d:\\d\\d", expected)
        assert re.fullmatch(expected, done.stdout.decode()), f"$ {command}\n{done.stdout.decode()}"
        here = tmp_path / "notes"


def _fault(words: list[str]) -> str:
    """What is wrong with a call: a command or an option that does not exist; "" when nothing is."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return ""
        if word.startswith("-"):
            options = {name for option in command.params for name in option.opts + option.secondary_opts}
            if word.partition("=")[0] not in options | {"--help", "--json"}:
                return f"`{' '.join(words)}`: no option `{word}`"
            if word in ("-C", "--workspace"):
                rest.pop(0)
        elif isinstance(command, click.Group) and word not in ("NOUN", "VERB"):
            found = command.get_command(context, word)
            if found is None:
                return f"`{' '.join(words)}`: no command `{word}`"
            command, context = found, click.Context(found, parent=context)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    assert [fault for words in _said(page) if (fault := _fault(words))] == []


def test_a_page_that_names_what_does_not_exist_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`ravi -C there tasks nwe`, `ravi up --until-late`\n\n```\n$ ravi tasks new X -a me  # fine\n```\n")
    assert [fault for words in _said(page) if (fault := _fault(words))] == [
        "`-C there tasks nwe`: no command `nwe`",
        "`up --until-late`: no option `--until-late`",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_in_a_page_leads_somewhere(page: Path) -> None:
    broken = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "write it anew with `just docs`"


@pytest.mark.parametrize("name", ["requirements-run.lock", "requirements-test.lock"])
def test_the_locks_hold_every_requirement_with_hashes_and_name_no_registry(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"]["test"] if "test" in name else [])
    text = (ROOT / name).read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==.*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert {re.split(r"[><=]", requirement)[0] for requirement in wanted} <= set(pinned)
    assert "://" not in text
    assert "index-url" not in text
