"""Publishing to a local stand-in for the hub: one commit, resumable, and no token anywhere."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import HubError, OptionError
from qwen3_mlx.quantize import upload
from qwen3_mlx.quantize.card import renamed
from qwen3_mlx.quantize.checkpoint_entries import RECORD
from tests.hub.test_hub import point_at
from tests.hub_upload_stub import UploadStub
from tests.quantize.build import DENSE, all_bytes, bf16_model
from tests.quantize.conftest import convert

SECRET = "hf_notarealtokenatall"
ROOT = Path(__file__).parents[2]

# huggingface_hub hands httpx the file of a PUT in a way that httpx has come to dislike
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadStub]:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is not an HTTP matter
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    with UploadStub() as stub:
        point_at(stub.url, monkeypatch)
        stub.tokens.add(SECRET)
        stub.writers.add(SECRET)
        yield stub


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A converted model in several shards."""
    convert(bf16_model(tmp_path / "in", DENSE), tmp_path / "out", shard_bytes=60_000)
    return tmp_path / "out"


def test_all_files_arrive_in_one_commit(hub: UploadStub, result: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    address = upload.upload(result, "me/tiny-4bit", on_progress=lambda *step: seen.append(step))
    assert hub.branches["me/tiny-4bit", "main"] == as_published(result, "me/tiny-4bit")
    assert hub.commits == [("me/tiny-4bit", "main")]
    assert address.startswith(f"{hub.url}/me/tiny-4bit/commit/")
    assert not hub.repos["me/tiny-4bit"].private
    assert [done for _, done, _ in seen] == list(range(len(seen))) and len(seen) == seen[0][2]


def as_published(result: Path, repo: str) -> dict[str, bytes]:
    """The result's files, whose card names the repository."""
    files = all_bytes(result)
    return files | {"README.md": renamed(files["README.md"].decode(), repo).encode()}


@pytest.mark.parametrize("revision", [None, "4bit"])
def test_nothing_of_an_earlier_upload_is_read_beside_the_new_one(
    hub: UploadStub, result: Path, tmp_path: Path, revision: str | None
) -> None:
    """A whole file goes before shards and their index, so an old one would be the model."""
    convert(tmp_path / "in", tmp_path / "whole")
    (tmp_path / "whole" / "chat_template.jinja").write_text("old")
    (tmp_path / "whole" / "LICENSE").write_text("mine")
    (tmp_path / "whole" / "notes.txt").write_text("kept")
    upload.upload(tmp_path / "whole", "me/tiny", revision=revision)
    removed: list[str] = []
    upload.upload(result, "me/tiny", revision=revision, on_removed=removed.extend)
    assert removed == ["chat_template.jinja", "model.safetensors"]
    expected = as_published(result, "me/tiny") | {"LICENSE": b"mine", "notes.txt": b"kept"}
    assert hub.branches["me/tiny", revision or "main"] == expected
    assert len(hub.commits) == 2
    upload.upload(tmp_path / "whole", "me/tiny", revision=revision)  # and the other way about
    weights = [n for n in hub.branches["me/tiny", revision or "main"] if n.endswith("tensors")]
    assert weights == ["model.safetensors"]


@pytest.mark.parametrize("revision", [None, "main", "4bit"])
def test_a_model_of_someone_else_s_is_removed_from_a_branch_alone(
    hub: UploadStub, result: Path, tmp_path: Path, revision: str | None
) -> None:
    """The branch holds a copy of it; in the main one it is all there is."""
    convert(tmp_path / "in", tmp_path / "whole")
    (tmp_path / "whole" / RECORD).unlink()
    upload.upload(tmp_path / "whole", "me/tiny")
    if revision == "4bit":
        upload.upload(tmp_path / "whole", "me/tiny", revision=revision)
        upload.upload(result, "me/tiny", revision=revision)
        assert "model.safetensors" not in hub.branches["me/tiny", "4bit"]
        return
    before = dict(hub.branches["me/tiny", "main"])
    with pytest.raises(HubError) as caught:
        upload.upload(result, "me/tiny", revision=revision)
    assert caught.value.got == "model.safetensors" and "--revision" in str(caught.value)
    assert hub.branches["me/tiny", "main"] == before and len(hub.commits) == 1
    convert(tmp_path / "in", tmp_path / "other")  # a file of the same name would be written over
    with pytest.raises(HubError, match="me/tiny holds another model"):
        upload.upload(tmp_path / "other", "me/tiny", revision=revision)
    assert hub.branches["me/tiny", "main"] == before and len(hub.commits) == 1


def test_a_folder_beside_the_weights_travels_too(hub: UploadStub, result: Path) -> None:
    for name in ("images/plot.png", ".git/config", "images/.DS_Store"):
        (result / name).parent.mkdir(exist_ok=True)
        (result / name).write_bytes(b"x")
    upload.upload(result, "me/tiny")
    sent = hub.branches["me/tiny", "main"]
    assert sent["images/plot.png"] == b"x" and not [name for name in sent if "/." in name]
    assert not [name for name in sent if name.startswith(".")]


@pytest.mark.parametrize("case", ["a name of other bytes", "no permission"])
def test_a_file_that_cannot_travel_is_named(
    hub: UploadStub, result: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It "broke off", and the hint was to run it again."""
    name = os.fsdecode(b"notes\xff.txt") if case.startswith("a name") else "notes.txt"
    try:
        (result / name).write_text("mine")
    except OSError:
        pytest.skip("a disk that has UTF-8 alone")
    make = upload._operation

    def denied(file: Path, *rest: Any) -> Any:
        if file.name == "notes.txt":
            raise PermissionError(13, "Permission denied", str(file))
        return make(file, *rest)

    monkeypatch.setattr(upload, "_operation", denied)
    with pytest.raises(HubError, match="not published: ") as caught:
        upload.upload(result, "me/tiny")
    assert "notes" in str(caught.value) and "rename it" in str(caught.value)
    assert hub.requests == []


def test_the_card_names_the_repository_that_it_lies_in(hub: UploadStub, result: Path) -> None:
    """Converted first and published later, or published twice: each card runs what is there."""
    here = (result / "README.md").read_bytes()
    (result / "README.md").write_bytes(here + b"\nmy own words about tiny\n")
    for repo in ("me/one", "me/two"):
        upload.upload(result, repo)
        card = hub.branches[repo, "main"]["README.md"].decode()
        assert f"\n# {repo}\n" in card and f"\nqwen3-mlx chat {repo}\n" in card
        assert card.endswith("\nmy own words about tiny\n")
    assert (result / "README.md").read_bytes().startswith(here)


@pytest.mark.parametrize("text", ["", "# mine\n", "# mine\n\nqwen3-mlx chats\n", "---\n---\n"])
def test_a_card_of_someone_elses_stays(text: str) -> None:
    assert renamed(text, "me/tiny") == text


@pytest.mark.parametrize("word", ["a b", "'a b'", "it's", "a+b", "x-4bit"])
def test_every_name_that_a_card_was_written_with(word: str) -> None:
    text = f'# a b\n\nqwen3-mlx chat {word}\nqwen3-mlx generate {word} "What?" --budget 1\n'
    new = renamed(text, "me/tiny")
    assert 'qwen3-mlx chat me/tiny\nqwen3-mlx generate me/tiny "What?" --budget 1\n' in new
    assert new.startswith("# me/tiny" if "a b" in word else "# a b")


def test_private_and_a_branch(hub: UploadStub, result: Path) -> None:
    upload.upload(result, "me/tiny", private=True, revision="4bit")
    assert hub.repos["me/tiny"].private
    assert hub.branches["me/tiny", "4bit"] == as_published(result, "me/tiny")
    assert hub.commits == [("me/tiny", "4bit")]


def test_private_is_never_sent_to_a_public_repository(hub: UploadStub, result: Path) -> None:
    """The hub leaves one that is there as it is: what was to be private, all could read."""
    upload.upload(result, "me/tiny")
    (result / "notes.txt").write_text("for us alone")
    commits, sent = list(hub.commits), hub.sent()
    with pytest.raises(HubError, match=r"me/tiny is there already, and public: got --private"):
        upload.upload(result, "me/tiny", private=True)
    assert hub.commits == commits and hub.sent() == sent
    hub.repos["me/tiny"].private = True
    upload.upload(result, "me/tiny", private=True)
    assert b"for us alone" in hub.branches["me/tiny", "main"].values()


def test_a_lost_connection_is_one_error_and_nothing_is_sent_twice(
    hub: UploadStub, result: Path
) -> None:
    shards = sorted(result.glob("*.safetensors"))
    hub.always_cut = None
    real = upload.files_of(result)
    assert real[: len(shards)] == shards

    class Cut(list[int]):
        """Lets two files through, then cuts everything."""

        def __bool__(self) -> bool:
            return len(hub.objects) >= 2

        def pop(self, _index: Any = 0) -> int:
            return 100

    hub.cuts = Cut()
    with pytest.raises(HubError) as caught:
        upload.upload(result, "me/tiny")
    assert "run the same command again" in str(caught.value)
    assert hub.commits == [] and hub.repos["me/tiny"].files == {}  # no half model is public
    arrived = set(hub.objects)
    assert len(arrived) == 2
    hub.cuts, hub.requests = [], []
    upload.upload(result, "me/tiny")
    assert not arrived & set(hub.sent())
    assert hub.branches["me/tiny", "main"] == as_published(result, "me/tiny")
    digests = {hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
    assert arrived | set(hub.sent()) == digests


def test_one_cut_is_retried_without_a_word(hub: UploadStub, result: Path) -> None:
    hub.cuts = [50]
    upload.upload(result, "me/tiny")
    assert hub.branches["me/tiny", "main"] == as_published(result, "me/tiny")


@pytest.mark.parametrize("status, hint", [(500, "again"), (503, "again"), (429, "again")])
def test_the_hubs_own_errors(hub: UploadStub, result: Path, status: int, hint: str) -> None:
    hub.broken = status
    with pytest.raises(HubError, match=rf"HTTP {status}") as caught:
        upload.upload(result, "me/tiny")
    assert hint in str(caught.value)


@pytest.mark.parametrize("case", ["read only", "someone else's"])
def test_a_token_without_write_permission(hub: UploadStub, result: Path, case: str) -> None:
    if case == "read only":
        hub.writers.clear()
    else:
        hub.foreign.add("qwen")
    with pytest.raises(HubError, match=r"refuses to write to qwen/tiny.*HTTP 403") as caught:
        upload.upload(result, "qwen/tiny")
    assert "HF_TOKEN needs write permission for qwen" in str(caught.value)
    assert hub.sent() == []


def test_without_a_token_nothing_is_asked(
    hub: UploadStub, result: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    # the login of `hf auth login` is not for us to use
    (tmp_path / "login").write_text("hf_from_a_login")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="needs a token in HF_TOKEN"):
        upload.upload(result, "me/tiny")
    assert hub.requests == []


NO_NAMES = ["tiny", "me/", "/tiny", "me/a/b", "me/..", "me/a b", "../x", ""]
ENDS = ["me/x-", "me/x.", "me/-x", "me./x", "me/x.git", f"me/{'a' * 97}", f"{'a' * 97}/x", "me/é"]


@pytest.mark.parametrize("name", [*NO_NAMES, *ENDS])
def test_a_name_that_is_no_repository(name: str) -> None:
    """All that the hub's library takes for none: it would say so after the conversion."""
    with pytest.raises(OptionError, match="owner/name"):
        upload.check_name(name)


@pytest.mark.parametrize("name", ["m/x", "me/_x", "ME/X.Y_z-1", "me/" + "a" * 96])
def test_a_name_that_the_hub_takes(name: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    upload.check_name(name)
    validate_repo_id(name)


@pytest.mark.parametrize("value", ["hf_ä", "hf_a hf_b", "hf_a\nb", "hf_\x1b[0m"])
def test_what_is_no_token(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No header can carry it: after the work, the upload "broke off", and again."""
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(HubError, match="HF_TOKEN is no token") as caught:
        upload.token()
    assert "hf_a" not in str(caught.value) and "ä" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", f" {SECRET}\n")
    assert upload.token() == SECRET


def test_offline(hub: UploadStub, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        upload.upload(result, "me/tiny")


@pytest.mark.parametrize("trouble", ["none", "refused", "cut", "500"])
def test_the_token_is_never_printed(
    hub: UploadStub,
    result: Path,
    trouble: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not even in the error's causes, nor in what the library logs."""
    caplog.set_level(logging.DEBUG)
    if trouble == "refused":
        hub.writers.clear()  # this hub quotes the token back at us
    hub.always_cut = 10 if trouble == "cut" else None
    hub.broken = 500 if trouble == "500" else None
    texts = []
    try:
        texts.append(upload.upload(result, "me/tiny"))
    except HubError as error:
        chain: BaseException | None = error
        while chain is not None:
            if not chain.__suppress_context__ or chain is error:
                texts += [str(chain), repr(chain)]
            chain = chain.__cause__
        assert error.__cause__ is None and error.__suppress_context__
    out = capfd.readouterr()
    for text in (*texts, out.out, out.err):
        assert SECRET not in text
    assert trouble == "none" or texts


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["none", "refused", "debug"])
def test_the_program_prints_no_token(hub: UploadStub, tmp_path: Path, trouble: str) -> None:
    source = bf16_model(tmp_path / "model", DENSE)
    if trouble != "none":
        hub.writers.clear()
    command = [sys.executable, "-m", "tests.quantize.program", "convert", str(source)]
    command += ["--out", str(tmp_path / "out"), "--recipe", "8bit", "--upload", "me/tiny"]
    command += ["--debug"] if trouble == "debug" else []
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": SECRET,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "QWEN3_MLX_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert SECRET not in done.stdout + done.stderr
    assert all(SECRET.encode() not in data for data in all_bytes(tmp_path / "out").values())
    if trouble == "none":
        assert done.returncode == 0, done.stderr
        assert f"published: {hub.url}/me/tiny/commit/" in done.stdout
        assert hub.branches["me/tiny", "main"] == all_bytes(tmp_path / "out")
    else:
        assert done.returncode == 1
        assert "error: the hub refuses to write to me/tiny: got HTTP 403" in done.stderr
        assert ("Traceback" in done.stderr) == (trouble == "debug")
