"""A person uses git in the middle of the daemon's work, on the very branch it publishes to: nothing is lost."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, Editor, Promises, chance, check, eventually, git, orphans, ref, size, tree

pytestmark = pytest.mark.fault


class Person:
    """Somebody at a shell in the workspace. git refuses while ravi holds its lock for a moment: they type it again."""

    def __init__(self, workspace, promises: Promises) -> None:
        self.workspace, self.promises = workspace, promises
        self.again = 0

    def git(self, *words: str, ok: tuple[int, ...] = (0,)) -> str:
        """A git command, typed again as long as something else holds a lock."""
        while True:
            done = subprocess.run(
                ["git", *words], check=False, cwd=self.workspace.root, capture_output=True, text=True,
                env={**self.workspace.environ, "GIT_EDITOR": "true", "GIT_SEQUENCE_EDITOR": "true"},
            )  # fmt: skip
            if done.returncode in ok:
                return done.stdout.strip()
            said = done.stderr + done.stdout
            is_held = any(word in said for word in (".lock", "is at ", "cannot lock ref", "Unable to write index"))
            is_early = words[0] == "switch" and "local changes" in said  # they are recorded, and published soon
            is_stash = words[0] == "stash" and "CONFLICT" not in said  # a quiet stash does not say why
            assert is_held or is_early or is_stash, (words, done.returncode, said)
            assert self.again < 500, words
            if words[0] == "merge":  # what could not be written down is still half done
                subprocess.run(["git", "merge", "--abort"], cwd=self.workspace.root, capture_output=True)
            self.again += 1

    def note(self, word: str, name: str = "notes.txt") -> None:
        """Write a line into a file that ravi does not care about."""
        path = self.workspace.root / name
        path.write_text((path.read_text() if path.exists() else "") + word + "\n")
        self.promises.saved[word] = name


class Scene:
    """A workspace with a past, a run under way that waits at a gate, and a person who may do something now."""

    def __init__(self, workspace, tmp_path: Path) -> None:
        self.workspace, self.promises = workspace, Promises()
        self.editor = Editor(workspace, self.promises, "editor")
        self.person = Person(workspace, self.promises)
        self.gate, self.begun, self.ledger = tmp_path / "gate", tmp_path / "begun", tmp_path / "ledger"
        begin = 'echo "$RAVI_RUN" >> "$LEDGER"; mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt\n'
        wait = 'touch "$BEGUN"; while [ ! -e "$GATE" ]; do sleep 0.02; done\n'
        extra = f"concurrency: 4\nenv:\n  LEDGER: {self.ledger}\n  GATE: {self.gate}\n  BEGUN: {self.begun}\n"
        workspace.agent("quick", begin, extra)
        workspace.agent("slow", begin + wait, extra)
        self.person.note("first-note")
        self.person.git("add", "notes.txt")
        self.person.git("commit", "-qm", "notes")
        self.task("past", "quick")
        self.note = self.editor.new("note", "")
        workspace.up()

    def task(self, name: str, agent: str) -> str:
        """A task that must come to its end."""
        self.promises.task(name, makes="out.txt")
        return self.editor.new(name, agent)

    def meanwhile(self) -> None:
        """A task that is done while git is in the middle of something."""
        name = f"meanwhile-{self.editor.count}"
        self.task(name, "quick")
        eventually(lambda: self.is_done(name))

    def forget(self, name: str) -> None:
        """A task that the person took back: it must be gone, and nobody may go on working at it."""
        self.promises.task(name, "missing")
        eventually(lambda: not orphans(self.workspace))

    def is_done(self, name: str) -> bool:
        """True when its outputs lie in the person's tree."""
        return (self.workspace.root / f"tasks/editor/{name}/outputs/out.txt").exists()

    def published(self) -> str:
        """Wait until everything recorded is published, and say where that is."""
        places = ("refs/ravi/main", "HEAD", "refs/ravi/published")
        eventually(lambda: len({ref(self.workspace, place) for place in places}) == 1, 20)
        return ref(self.workspace, "HEAD")


Do = Callable[[Scene], None]


def commit_all(scene: Scene) -> None:
    scene.editor.add(scene.note)
    scene.person.note("in-commit-a")
    scene.person.git("commit", "-qam", "all of it", ok=(0, 1))  # 1: ravi had it all already


def commit_a_new_task(scene: Scene) -> None:
    name = f"by-hand-{scene.editor.count}"
    scene.task(name, "quick")
    scene.person.git("add", f"tasks/editor/{name}")
    scene.person.git("commit", "-qm", "a task", ok=(0, 1))
    eventually(lambda: scene.is_done(name))


def amend(scene: Scene) -> None:
    scene.person.note("amended-first")
    scene.person.git("commit", "-qam", "first try")
    scene.person.note("amended-second")
    scene.person.git("commit", "-qa", "--amend", "-m", "second try")


def commit_in_an_editor(scene: Scene) -> None:
    """While the message is being written, a task is saved and recorded; it is not in the commit, nor deleted by it."""
    scene.person.note("with-a-long-message")
    scene.person.git("add", "notes.txt")
    written = scene.gate.with_name("written")
    editor = f"sh -c 'while [ ! -e {written} ]; do sleep 0.01; done; echo words > \"$1\"' -"
    with subprocess.Popen(
        ["git", "commit", "-q"], cwd=scene.workspace.root, env={**scene.workspace.environ, "GIT_EDITOR": editor}
    ) as commit:
        name = f"while-writing-{scene.editor.count}"
        path = scene.task(name, "quick")
        eventually(lambda: path in tree(scene.workspace))
        written.touch()
    if commit.returncode:  # ravi published while git was starting the editor; git says so
        scene.person.git("commit", "-qm", "the same words again")
    eventually(lambda: scene.is_done(name))
    written.unlink()


def amend_what_ravi_made(scene: Scene) -> None:
    scene.published()
    scene.person.git("commit", "-q", "--amend", "--allow-empty", "-m", "my own words")


def stage_and_leave(scene: Scene) -> None:
    scene.person.note("staged")
    scene.person.git("add", "notes.txt")


def stage_a_task(scene: Scene) -> None:
    scene.editor.add(scene.note)
    scene.person.git("add", scene.note)
    scene.editor.add(scene.note)  # and a line that is not staged
    scene.meanwhile()
    scene.person.git("commit", "-qm", "what was staged", ok=(0, 1))


def add_everything(scene: Scene) -> None:
    scene.person.note("added-by-dot", "new.txt")
    scene.editor.add(scene.note)
    scene.person.git("add", "-A", ".")
    scene.person.git("commit", "-qm", "everything", ok=(0, 1))


def switch_and_back(scene: Scene) -> None:
    scene.person.git("switch", "-qc", "side")
    scene.person.note("on-the-side", "side.txt")
    scene.person.git("add", "side.txt")
    scene.person.git("commit", "-qm", "aside")
    scene.gate.touch()  # the run ends while something else is checked out
    scene.person.git("switch", "-q", "main")


def switch_with_an_older_tree(scene: Scene) -> None:
    """What the other branch lacks is not taken for deleted."""
    scene.person.git("switch", "-q", "--detach", "HEAD~2")
    scene.gate.touch()
    scene.person.git("switch", "-q", "main")


def stash_and_pop(scene: Scene) -> None:
    scene.person.note("stashed")
    scene.person.git("stash", "-q")
    scene.meanwhile()
    scene.person.git("stash", "pop", "-q")


def stash_a_task(scene: Scene) -> None:
    scene.editor.add(scene.note)
    scene.person.git("stash", "-q", ok=(0, 1))  # 1: ravi held the index just then
    scene.person.git("stash", "pop", "-q", ok=(0, 1))  # 1: ravi was quicker, there was nothing to stash


def rebase(scene: Scene) -> None:
    for number in range(2):
        scene.person.note(f"rebased-{number}")
        scene.person.git("commit", "-qam", f"mine {number}")
    scene.person.git("rebase", "-q", "--force-rebase", "--rebase-merges", "HEAD~2")


def rebase_a_branch(scene: Scene) -> None:
    scene.person.git("switch", "-qc", "topic", "HEAD~1")
    scene.person.note("on-a-topic", "topic.txt")
    scene.person.git("add", "topic.txt")
    scene.person.git("commit", "-qm", "topic")
    scene.person.git("rebase", "-q", "main")
    scene.person.git("switch", "-q", "main")
    scene.person.git("merge", "-q", "--no-edit", "topic")


def merge(scene: Scene) -> None:
    switch_and_back(scene)
    scene.person.git("merge", "-q", "--no-ff", "--no-edit", "side")


def merge_that_takes_a_while(scene: Scene) -> None:
    """The run ends while the merge is under way."""
    switch_and_back(scene)
    scene.person.git("merge", "-q", "--no-ff", "--no-commit", "side")
    scene.task("meanwhile", "quick")
    eventually(lambda: len(scene.ledger.read_text().split()) >= 2)
    scene.person.git("commit", "-q", "--no-edit")


def cherry_pick(scene: Scene) -> None:
    switch_and_back(scene)
    scene.person.git("cherry-pick", "side")


def reset_hard(scene: Scene) -> None:
    scene.person.note("thrown-away")
    scene.person.git("commit", "-qam", "a mistake")
    scene.published()
    scene.person.git("reset", "-q", "--hard", "HEAD~1")


def reset_past_a_task(scene: Scene) -> None:
    """It is gone, and so its run is ended; what that made stays on its branch."""
    scene.published()
    scene.person.git("reset", "-q", "--hard", "HEAD~1")
    scene.forget("long")


def reset_past_a_run(scene: Scene) -> None:
    """It is the person's to say what happens now; it does not run again by itself."""
    scene.published()
    merge = scene.person.git("log", "--merges", "--format=%H", "--grep=Ravi-Run: past.1", "-1")
    scene.person.git("reset", "-q", "--hard", f"{merge}^1")
    scene.promises.task("past", "review")
    scene.forget("long")


def reset_soft(scene: Scene) -> None:
    scene.person.note("softly")
    scene.person.git("commit", "-qam", "not yet")
    scene.published()
    scene.person.git("reset", "-q", "--soft", "HEAD~1")
    scene.person.git("commit", "-qm", "now")


def revert_own(scene: Scene) -> None:
    scene.person.note("reverted")
    scene.person.git("commit", "-qam", "a mistake")
    scene.published()
    scene.person.git("revert", "--no-edit", "HEAD")


def revert_a_run(scene: Scene) -> None:
    scene.published()
    merge = scene.person.git("log", "--merges", "--format=%H", "--grep=Ravi-Run: past.1", "-1")
    scene.person.git("revert", "--no-edit", "-m", "1", merge)
    scene.promises.task("past", "review")


def pack_everything(scene: Scene) -> None:
    scene.person.git("pack-refs", "--all")
    scene.person.git("repack", "-adq")
    scene.person.git("gc", "-q", "--prune=now")  # last: a bare repack leaves what it drops in the commit graph


def move_a_task(scene: Scene) -> None:
    scene.published()
    scene.person.git("mv", "tasks/editor/note", "tasks/editor/moved")
    scene.person.git("commit", "-qm", "moved")


def restore_a_file(scene: Scene) -> None:
    scene.editor.add(scene.note)
    eventually(lambda: scene.editor.name in git(scene.workspace, "show", f"refs/ravi/main:{scene.note}").decode())
    # what is in no commit yet, `git clean` takes for good
    eventually(lambda: "??" not in scene.person.git("status", "--porcelain", "-uall"))
    scene.person.git("checkout", "-q", "HEAD~1", "--", "notes.txt")
    scene.person.git("clean", "-qfd")


DEEDS: dict[str, Do] = {
    deed.__name__: deed
    for deed in (
        commit_all, commit_a_new_task, commit_in_an_editor, amend, amend_what_ravi_made, stage_and_leave, stage_a_task,
        add_everything, switch_and_back, switch_with_an_older_tree, stash_and_pop, stash_a_task, rebase,
        rebase_a_branch, merge, merge_that_takes_a_while, cherry_pick, reset_hard, reset_past_a_task, reset_past_a_run,
        reset_soft, revert_own, revert_a_run, pack_everything, move_a_task, restore_a_file,
    )
}  # fmt: skip
ANY_ORDER = (
    commit_all, commit_a_new_task, commit_in_an_editor, amend, stage_a_task, add_everything, switch_with_an_older_tree,
    stash_and_pop, stash_a_task, pack_everything, restore_a_file,
)  # fmt: skip
STAGED = {"stage_and_leave": ("notes.txt",), "stash_and_pop": ("notes.txt",), "restore_a_file": ("notes.txt",)}
TAKEN_BACK = {"revert_a_run", "reset_past_a_task", "reset_past_a_run"}


@pytest.fixture
def scene(workspace, tmp_path) -> Iterator[Scene]:
    scene = Scene(workspace, tmp_path)
    yield scene
    scene.gate.touch()


@pytest.mark.parametrize("deed", DEEDS)
def test_a_person_with_git_loses_nothing_and_work_goes_on(deed: str, scene: Scene, figures):
    scene.task("long", "slow")
    with Daemon(scene.workspace) as daemon:
        daemon.until(scene.begun.exists)
        DEEDS[deed](scene)
        scene.gate.touch()
        daemon.until(lambda: scene.promises.ends["long"] == "missing" or scene.is_done("long"))
        scene.task("after", "quick")
        daemon.until(lambda: scene.is_done("after"))
        assert daemon.stop() == 0, daemon.said()
        assert "Traceback" not in daemon.said(), daemon.said()
    found = check(
        scene.workspace,
        scene.promises,
        ledger=scene.ledger,
        is_reverted=deed in TAKEN_BACK,
        may_have=STAGED.get(deed, ()),
    )
    figures(lost=found.lost, doubled=found.doubled, half=found.half, typed_again=scene.person.again)


def test_a_person_may_do_one_thing_with_git_after_the_other(scene: Scene, figures):
    """In any order, while tasks come and go."""
    rng = chance("person")
    course = [rng.choice(ANY_ORDER) for _ in range(size(10, 300))]
    scene.gate.touch()
    with Daemon(scene.workspace) as daemon:
        daemon.until(daemon.is_leading)
        for number, deed in enumerate(course):
            scene.task(f"task-{number}", "quick")
            deed(scene)
        scene.person.git("commit", "-qam", "what is left", ok=(0, 1))
        daemon.until(lambda: all(map(scene.is_done, scene.promises.makes)))
        assert daemon.stop() == 0, daemon.said()
        assert "Traceback" not in daemon.said(), daemon.said()
    found = check(scene.workspace, scene.promises, ledger=scene.ledger)
    figures(deeds=len(course), lost=found.lost, doubled=found.doubled, half=found.half, typed_again=scene.person.again)
