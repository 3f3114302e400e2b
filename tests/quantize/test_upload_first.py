"""What the hub would refuse in the end is asked before the work; what it can't say is no error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from convert import publish
from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import HubError
from qwen3_mlx.quantize import upload
from tests.hub_stub import Repo
from tests.hub_upload_stub import UploadStub
from tests.quantize.test_upload import SECRET
from tests.quantize.test_upload import hub as hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def account(role: str, **more: Any) -> dict[str, Any]:
    """What the hub says of a token's owner."""
    return {
        "name": "me",
        "orgs": [{"name": "Guild"}],
        "auth": {"accessToken": {"role": role}},
    } | more


def run(source: Path, *more: str) -> Result:
    typed = ["convert", str(source), "--out", str(source.with_name("out")), "--upload", "me/tiny"]
    return CliRunner().invoke(app, [*typed, *more])


def read_only(hub: UploadStub) -> None:
    hub.account = account("read")


def of_another(hub: UploadStub) -> None:
    hub.account = account("write", name="somebody")


def refused(hub: UploadStub) -> None:
    hub.account = account("write")
    hub.tokens.clear()


def public(hub: UploadStub) -> None:
    hub.repos["me/tiny"] = Repo({"README.md": b""})


def of_others(hub: UploadStub) -> None:
    hub.repos["me/tiny"] = Repo({"config.json": b"{}", "model.safetensors": b"an original"})


REFUSALS = {
    "got one that may only read, expected write permission for me\nhint: make one with": read_only,
    "got one of somebody, expected write permission for me\nhint: publish to somebody/": of_another,
    "the hub refuses to write to me/tiny: got HTTP 401\nhint: HF_TOKEN needs write": refused,
    "me/tiny is there already, and public: got --private": public,
    "me/tiny holds another model, which would be read in place of this one": of_others,
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_comes_before_the_work(hub: UploadStub, dense: Path, said: str) -> None:
    REFUSALS[said](hub)
    before = sorted(dense.parent.iterdir())
    done = run(dense, *(["--private"] if "--private" in said else []))
    assert done.exit_code == 1 and said in done.stderr
    assert SECRET not in done.stderr
    assert sorted(dense.parent.iterdir()) == before and hub.commits == []
    assert {one.method for one in hub.requests} <= {"GET", "HEAD"}


def test_the_whole_family_is_asked_first_too(hub: UploadStub, tmp_path: Path) -> None:
    hub.account = account("read")
    entry = publish.Entry("2504", "a", "Qwen/a", "8bit", "me/a-8bit")
    with pytest.raises(HubError, match="one that may only read"):
        publish.one(entry, publish.Options(tmp_path / "work"))


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("me/tiny", account("write")),
        ("ME/tiny", account("write")),
        ("guild/tiny", account("write", orgs=[{"name": "Guild"}])),
        ("guild/tiny", account("fineGrained", orgs=[])),  # such a token may hide them
        ("guild/tiny", {"name": "me"}),
        ("guild/tiny", {"name": None, "auth": {"accessToken": {"role": "write"}}}),
        ("guild/tiny", account("write", orgs=None)),
    ],
)
def test_a_token_that_may_write_is_let_through(
    hub: UploadStub, repo: str, said: dict[str, Any]
) -> None:
    hub.account = said
    upload.check_first(repo)


@pytest.mark.parametrize("trouble", ["no such endpoint", "busy", "nobody there"])
def test_a_hub_that_says_nothing_now_may_answer_then(
    hub: UploadStub, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "busy":
        hub.broken = 503
    if trouble == "nobody there":
        hub.__exit__(None, None, None)
    upload.check_first("me/tiny", private=True)


def test_offline_is_said_first(
    hub: UploadStub, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = run(dense)
    assert done.exit_code == 1 and "got HF_HUB_OFFLINE is set" in done.stderr
    assert not (dense.parent / "out").exists()


def test_an_own_conversion_may_be_published_again(hub: UploadStub, dense: Path) -> None:
    hub.account = account("write")
    for _ in range(2):
        done = run(dense, "--recipe", "8bit")
        assert done.exit_code == 0, done.stderr
    assert hub.commits == [("me/tiny", "main")] * 2


def test_a_dry_run_asks_nobody(hub: UploadStub, dense: Path) -> None:
    hub.account = account("read")
    assert run(dense, "--dry-run").exit_code == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    "branch", ["", "a b", "-x", "a..b", "a//b", "a/", "a.lock", "/a", "a/.b", "ä"]
)
def test_what_is_no_branch(hub: UploadStub, dense: Path, branch: str) -> None:
    """An empty variable of a script, for one: it was refused once all was converted."""
    for more in ([], ["--dry-run"]):
        done = run(dense, f"--revision={branch}", *more)
        assert done.exit_code == 1 and "--revision: got " in done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("branch", ["mlx", "v1.0", "4bit/new", "refs/pr/1"])
def test_branches(branch: str) -> None:
    upload.check_revision(branch)


def test_ctrl_c_in_an_upload_says_how_to_go_on(
    hub: UploadStub, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upload, "_send_weights", pressed)
        done = run(dense)
    assert done.exit_code == 130 and hub.commits == []
    assert "stopped; " in done.stderr and "the same command sends what hasn't" in done.stderr
    assert run(dense).exit_code == 0 and hub.commits == [("me/tiny", "main")]
