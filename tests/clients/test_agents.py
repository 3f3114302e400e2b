"""Coding agents, each in a home of its own: one edits a file, as the scripted model tells it to."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.documented import blocks
from tests.clients.install import VARIABLE, node, programs
from tests.clients.served import PATIENCE_S, THOUGHT, Json, Reply, Served, call, results

MOST_COMPUTED = 200
"""Tokens of a turn that isn't a conversation's first, in Qwen3's tokens."""
WRONG, RIGHT = "2 + 2 = 5\n", "2 + 2 = 4\n"

pytestmark = pytest.mark.slow


@dataclass
class Project:
    """A folder with a file to be corrected, and the agent that is to do it."""

    served: Served
    folder: Path
    home: Path
    agents: Path

    @property
    def file(self) -> Path:
        return self.folder / "sums.txt"

    def run(self, script: str) -> str:
        """What a documented script prints; it must end well, and sees nothing of the user's."""
        path = os.pathsep.join(map(str, (programs(self.agents), node(self.agents))))
        environment = {"HOME": str(self.home), "PATH": f"{path}{os.pathsep}/usr/bin:/bin"}
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder,
            env=environment | {"TERM": "dumb", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 3,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def steps(self, *calls: tuple[str, Json]) -> Reply:
        """Make these calls one after the other, then say that it is done."""

        def reply(prompt: str) -> str:
            if "<tools>" not in prompt:
                return "A title"
            done = len(results(prompt))
            if done >= len(calls) or "Thank you." in prompt:
                return f"{THOUGHT}Corrected."
            name, arguments = calls[done]
            return THOUGHT + call(name, **arguments)

        return reply


@pytest.fixture
def project(served: Served, tmp_path: Path) -> Project:
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"no agents: python -m tests.clients.install DIR, and {VARIABLE}=DIR")
    folder, home = tmp_path / "project", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    found = Project(served, folder, home, Path(named).resolve())
    assert programs(found.agents).is_dir(), f"{VARIABLE} names a folder without them"
    found.file.write_text(WRONG, "utf-8")
    return found


def edited(project: Project, said: str) -> list[int]:
    """The file is corrected; how much each turn computed whose prompt offers tools."""
    assert project.file.read_text("utf-8") == RIGHT
    assert "Corrected." in said
    return [one.computed for one in project.served.with_tools]


def most(real_tokens: Path | None) -> int:
    """The bound in tokens of the tokenizer that is there: the demo's needs more than twice them."""
    return MOST_COMPUTED if real_tokens else 3 * MOST_COMPUTED


def test_claude_code(project: Project, real_tokens: Path | None) -> None:
    (script,) = blocks("Claude Code", project.served.url)
    read = {"file_path": str(project.file)}
    edit = read | {"old_string": "= 5", "new_string": "= 4"}
    project.served.say(project.steps(("Read", read), ("Edit", edit)))
    said = project.run(script)
    first, *later = edited(project, said)
    assert first > 15_000
    assert len(later) == 2 and max(later) < most(real_tokens)

    # the same conversation, and a new one, whose first lines name another session
    for option, bound in (("-c", most(real_tokens)), ("", first // 10)):
        again = script.replace('-p "Correct the sum in sums.txt."', f'{option} -p "Thank you."')
        before = {one.id for one in project.served.turns}
        assert again != script and "Corrected." in project.run(again)
        new = [one.computed for one in project.served.with_tools if one.id not in before]
        assert new and max(new) < bound


def test_codex(project: Project, real_tokens: Path | None) -> None:
    settings, script = blocks("Codex", project.served.url)
    (project.home / ".codex").mkdir()
    (project.home / ".codex" / "config.toml").write_text(settings, "utf-8")
    # its sandbox needs what a container may not do; the folder is a temporary one
    bare = "--dangerously-bypass-approvals-and-sandbox"
    script = script.replace("--sandbox workspace-write", bare)
    command = {"cmd": "sed -i 's/= 5/= 4/' sums.txt"}
    project.served.say(project.steps(("exec_command", command)))
    said = project.run(script)
    first, second = edited(project, said)
    assert first > 3_000 and second < most(real_tokens)


def test_opencode(project: Project, real_tokens: Path | None) -> None:
    settings, script = blocks("opencode", project.served.url)
    (project.folder / "opencode.json").write_text(settings, "utf-8")
    read = {"filePath": str(project.file)}
    edit = read | {"oldString": "= 5", "newString": "= 4"}
    project.served.say(project.steps(("read", read), ("edit", edit)))
    first, *later = edited(project, project.run(script))
    assert first > 5_000
    assert len(later) == 2 and max(later) < most(real_tokens)


def test_qwen_code(project: Project, real_tokens: Path | None) -> None:
    (script,) = blocks("Qwen Code", project.served.url)
    read = {"file_path": str(project.file)}
    edit = read | {"old_string": "= 5", "new_string": "= 4"}
    project.served.say(project.steps(("read_file", read), ("edit", edit)))
    first, *later = edited(project, project.run(script))
    assert first > 10_000
    assert len(later) == 2 and max(later) < most(real_tokens)
