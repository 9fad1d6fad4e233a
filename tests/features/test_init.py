"""`ravi init` from outside: a new workspace, a repository that becomes one, and what it leaves alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Ran = subprocess.CompletedProcess[str]
Run = Callable[..., Ran]


@pytest.fixture
def ravi(tmp_path: Path, environ: dict[str, str]) -> Run:
    def run(*words: str, cwd: Path = tmp_path, **more: str) -> Ran:
        command = [sys.executable, "-m", "ravi", *words]
        return subprocess.run(command, cwd=cwd, env={**environ, **more}, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def git(environ: dict[str, str]) -> Callable[..., str]:
    path = os.pathsep.join([os.path.dirname(sys.executable), environ["PATH"]])  # git calls `ravi merge-driver`

    def run(folder: Path, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, env={**environ, "PATH": path}, capture_output=True, text=True, check=True
        )
        return done.stdout

    return run


@pytest.fixture
def repository(tmp_path: Path, git: Callable[..., str]) -> Path:
    """A person's repository with one commit, and nothing of ravi in it."""
    folder = tmp_path / "own"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "poem.txt").write_text("roses\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a poem")
    return folder


def test_an_empty_folder_becomes_a_repository_with_one_commit_by_the_person(tmp_path: Path, ravi: Run, git) -> None:
    made = ravi("init", "there")
    there = tmp_path / "there"
    assert (made.returncode, made.stderr) == (0, "")
    assert (
        git(there, "log", "--format=%an <%ae> %cn %s") == "Ann <ann@example.org> ravi workspace: made ready for ravi\n"
    )
    assert git(there, "status", "--porcelain") == ""
    assert git(there, "branch", "--show-current") == "main\n"
    assert git(there, "ls-files").split() == [".gitattributes", ".gitignore", "ravi.yaml"]
    assert "\nbranch: main " in (there / "ravi.yaml").read_text()
    assert f"{there} is a workspace, main line main" in made.stdout


def test_what_was_made_is_a_workspace(tmp_path: Path, ravi: Run) -> None:
    ravi("init", "there")
    assert ravi("tasks", cwd=tmp_path / "there").returncode == 0
    checked = ravi("check", cwd=tmp_path / "there")
    assert (checked.returncode, checked.stdout) == (0, "no mistakes found\n")


def test_a_second_time_there_is_nothing_to_add(tmp_path: Path, ravi: Run, git) -> None:
    ravi("init", "there")
    before = git(tmp_path / "there", "rev-parse", "HEAD", "refs/ravi/main")
    again = ravi("init", "there")
    assert again.stdout == f"{tmp_path / 'there'} is a workspace, main line main; nothing to add\n"
    assert git(tmp_path / "there", "rev-parse", "HEAD", "refs/ravi/main") == before


def test_json_says_what_was_added(tmp_path: Path, ravi: Run) -> None:
    first, second = (json.loads(ravi("init", "there", "--json").stdout) for _ in range(2))
    assert first == {
        "workspace": str(tmp_path / "there"),
        "branch": "main",
        "new_repository": True,
        "added": ["ravi.yaml"],
        "extended": [".gitattributes", ".gitignore"],
        "uncommitted": [],
        "merge_driver": True,
        "commit": first["commit"],
        "paused": "",
    }
    assert {**second, "commit": "", "paused": ""} == {
        **first, "new_repository": False, "added": [], "extended": [], "merge_driver": False, "commit": "", "paused": ""
    }  # fmt: skip


def test_the_branch_that_git_is_told_to_begin_with_is_the_main_line(tmp_path: Path, ravi: Run, git) -> None:
    config = tmp_path / "home" / ".gitconfig"
    config.write_text(config.read_text().replace("defaultBranch = main", "defaultBranch = trunk"))
    ravi("init", "there")
    assert git(tmp_path / "there", "branch", "--show-current") == "trunk\n"
    assert "\nbranch: trunk " in (tmp_path / "there" / "ravi.yaml").read_text()


def test_a_repository_keeps_its_history_and_gets_what_is_missing_on_top(repository: Path, ravi: Run, git) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert ravi("init", cwd=repository).returncode == 0
    assert git(repository, "rev-parse", "HEAD~1") == head
    assert git(repository, "rev-parse", "HEAD") == git(repository, "rev-parse", "refs/ravi/main")
    assert git(repository, "diff", "--name-only", "HEAD~1", "HEAD").split() == [
        ".gitattributes", ".gitignore", "ravi.yaml"
    ]  # fmt: skip
    assert "\nbranch: trunk " in (repository / "ravi.yaml").read_text()


def test_what_a_person_has_staged_changed_and_made_stays_as_it_is(repository: Path, ravi: Run, git) -> None:
    (repository / "staged.txt").write_text("staged\n")
    git(repository, "add", "staged.txt")
    (repository / "poem.txt").write_text("violets\n")
    (repository / "new.txt").write_text("new\n")
    before = git(repository, "status", "--porcelain"), git(repository, "diff"), git(repository, "diff", "--cached")
    assert ravi("init", cwd=repository).returncode == 0
    after = git(repository, "status", "--porcelain"), git(repository, "diff"), git(repository, "diff", "--cached")
    assert after == before


def test_lines_of_a_person_stay_and_only_missing_ones_are_added(repository: Path, ravi: Run, git) -> None:
    (repository / ".gitignore").write_bytes(b"*.log\r\n/.ravi/")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "ignore logs")
    ravi("init", cwd=repository)
    text = (repository / ".gitignore").read_bytes()
    assert text.startswith(b"*.log\r\n/.ravi/\r\n\r\n# ravi: ")
    assert text.endswith(b"/open/\r\n*.problem\r\n.ravi-*\r\n")
    assert text.count(b"/.ravi/") == 1
    assert git(repository, "status", "--porcelain") == ""


def test_a_file_that_a_person_is_changing_gets_the_lines_but_is_theirs_to_commit(
    repository: Path, ravi: Run, git
) -> None:
    (repository / ".gitignore").write_text("*.log\n")
    made = ravi("init", cwd=repository)
    assert "yours to commit  .gitignore" in made.stdout
    assert (repository / ".gitignore").read_text().startswith("*.log\n\n# ravi: ")
    assert git(repository, "status", "--porcelain") == "?? .gitignore\n"
    assert "nothing to add" in ravi("init", cwd=repository).stdout


def test_settings_that_are_there_are_not_touched(repository: Path, ravi: Run) -> None:
    (repository / "ravi.yaml").write_text("name: mine  # my own\n")
    made = json.loads(ravi("init", "--json", cwd=repository).stdout)
    assert "ravi.yaml" not in made["added"]
    assert (repository / "ravi.yaml").read_text() == "name: mine  # my own\n"


def test_a_folder_inside_another_repository_is_refused(repository: Path, ravi: Run) -> None:
    refused = ravi("init", "below", cwd=repository)
    assert refused.returncode == 5
    assert refused.stderr == (
        f"ravi: below: lies inside the repository {repository}, and a workspace is the root of one\n"
        f"  `ravi init {repository}` makes that one a workspace; `git init below` makes this folder a repository\n"
    )
    assert not (repository / "below").exists()


def test_without_a_branch_there_is_no_main_line(repository: Path, ravi: Run, git) -> None:
    git(repository, "checkout", "-q", "--detach")
    refused = ravi("init", cwd=repository)
    assert (refused.returncode, "no branch is checked out" in refused.stderr) == (5, True)
    assert not (repository / "ravi.yaml").exists()


def test_while_git_is_in_the_middle_of_something_nothing_is_added(repository: Path, ravi: Run, git) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / ".git" / "MERGE_HEAD").write_text(head)
    refused = ravi("init", cwd=repository)
    assert (refused.returncode, "a merge is under way" in refused.stderr) == (5, True)
    assert git(repository, "for-each-ref", "refs/ravi") == ""
    (repository / ".git" / "MERGE_HEAD").unlink()
    assert ravi("init", cwd=repository).returncode == 0
    assert git(repository, "rev-parse", "HEAD~1") == head


def test_the_main_line_stays_what_the_settings_say_whatever_is_checked_out(repository: Path, ravi: Run, git) -> None:
    ravi("init", cwd=repository)
    git(repository, "switch", "-q", "-c", "trial")
    (repository / ".gitignore").write_text("")
    refused = ravi("init", cwd=repository)
    assert (refused.returncode, "trial is checked out, the main line is trunk" in refused.stderr) == (5, True)
    assert git(repository, "rev-parse", "trial") == git(repository, "rev-parse", "trunk")


def test_a_fresh_clone_only_lacks_the_merge_driver(tmp_path: Path, repository: Path, ravi: Run, git) -> None:
    ravi("init", cwd=repository)
    git(tmp_path, "clone", "-q", str(repository), "clone")
    made = json.loads(ravi("init", "--json", cwd=tmp_path / "clone").stdout)
    assert (made["added"], made["extended"], made["merge_driver"], made["commit"]) == ([], [], True, None)
    assert git(tmp_path / "clone", "config", "merge.ravi.driver").endswith("ravi merge-driver %O %A %B %P\n")


def test_a_file_is_no_place_for_a_workspace(tmp_path: Path, ravi: Run) -> None:
    (tmp_path / "file").write_text("")
    assert (ravi("init", "file").returncode, (tmp_path / "file").read_text()) == (5, "")


def test_an_agent_may_not_make_a_workspace(tmp_path: Path, ravi: Run) -> None:
    assert ravi("init", "there", RAVI_RUN="login.1").returncode == 6
    assert not (tmp_path / "there").exists()


def test_the_example_is_whole_without_a_mistake_and_its_programs_can_be_run(tmp_path: Path, ravi: Run, git) -> None:
    assert ravi("init", "there", "--example").returncode == 0
    there, shipped = tmp_path / "there", Path(__file__).parents[2] / "workspace.example"
    expected = {str(path.relative_to(shipped)): path for path in shipped.rglob("*") if path.is_file()}
    assert set(git(there, "ls-files").split()) == {*expected, ".gitattributes", ".gitignore"}
    for name, path in expected.items():
        assert (there / name).read_bytes() == path.read_bytes()
        assert os.access(there / name, os.X_OK) == os.access(path, os.X_OK) == name.endswith((".py", ".sh"))
    assert git(there, "status", "--porcelain") == ""
    assert ravi("check", cwd=there).stdout == "no mistakes found\n"
    tasks = json.loads(ravi("tasks", "list", "--json", cwd=there).stdout)
    assert {(task["id"], task["status"]) for task in tasks} == {("overview", "draft"), ("links", "draft")}


def test_the_templates_are_documents_without_a_mistake(tmp_path: Path, ravi: Run) -> None:
    ravi("init", "there")
    templates = Path(__file__).parents[2] / "templates"
    for name, place in (("TASK.md", "tasks/a"), ("AGENT.md", "agents/a")):
        (tmp_path / "there" / place).mkdir(parents=True)
        (tmp_path / "there" / place / name).write_bytes((templates / name).read_bytes())
    checked = ravi("check", cwd=tmp_path / "there")
    assert (checked.returncode, checked.stdout) == (0, "no mistakes found\n")


def test_git_leaves_line_ends_alone_and_merges_documents_by_field(tmp_path: Path, ravi: Run, git) -> None:
    ravi("init", "there")
    there, path = tmp_path / "there", "tasks/a/TASK.md"
    git(there, "config", "core.autocrlf", "true")
    (there / "tasks/a").mkdir(parents=True)
    old = "---\r\nid: a\r\ntitle: A\r\nstatus: draft\r\npriority: 1\r\n---\r\n\r\nDo it.\r\n"
    for branch, text in (
        ("main", old),
        ("hers", old.replace("draft", "review")),
        ("his", old.replace("priority: 1", "priority: 2")),
    ):
        git(there, "switch", "-q", *(["-c", branch, "main"] if branch != "main" else ["main"]))
        (there / path).write_bytes(text.encode())
        git(there, "add", path)
        git(there, "commit", "-q", "-m", branch)
    git(there, "merge", "-q", "-m", "both", "hers")
    merged = old.replace("draft", "review").replace("priority: 1", "priority: 2")
    assert (there / path).read_bytes() == merged.encode()
    assert subprocess.check_output(["git", "show", f"HEAD:{path}"], cwd=there) == merged.encode()


def test_a_clone_with_nothing_checked_out_is_told_to_switch(tmp_path: Path, ravi: Run, git: Callable[..., str]) -> None:
    ravi("init", str(tmp_path / "first"))
    git(tmp_path, "clone", "-q", "--no-checkout", "first", "clone")
    git(tmp_path / "clone", "symbolic-ref", "HEAD", "refs/heads/other")
    refused = ravi("init", str(tmp_path / "clone"))
    assert refused.returncode == 5
    assert "origin/main holds a workspace" in refused.stderr
    assert "switch main" in refused.stderr
