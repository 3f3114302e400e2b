"""Resolves a model's name to a local directory: bundled, the user's own, or a hub snapshot.

A complete snapshot in the hub's cache is used without any request.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from qwen3_mlx.errors import ModelNotFoundError, Qwen3Error, shown
from qwen3_mlx.files import expanded, is_utf8
from qwen3_mlx.gguf import folder
from qwen3_mlx.hub import releases
from qwen3_mlx.hub.cache import Source, complete_snapshot, gguf_choice, gguf_names

_BUNDLED = ("demo", "demo-moe", "demo-tools")
_WEIGHTS = (".safetensors", ".gguf")
_PAGE = re.compile(
    r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(/(tree|blob|resolve)/([^/?#]+))?"
    r"([/?#].*)?"
)
"""A model's page, as it is copied from a browser."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?(@[\w./-]+)?")


def resolve(name: str = "demo") -> Path:
    """The directory of the model `name`, downloaded to the hub's cache if necessary.

    `name` is ``demo``, ``demo-moe`` or ``demo-tools``, a directory, a GGUF file, an alias such as
    ``8b`` (in any case, ``qwen3-8b`` too), or ``owner/name``, with ``:Q4_K_M`` for one of its GGUF
    files and ``@revision`` if not the newest. Draws progress on stderr. Raises
    `ModelNotFoundError` for an unknown name, `HubError` if the hub can't be reached or refuses, or
    the repository lacks a file.
    """
    source = parse(name)
    found = source.path or complete_snapshot(source)
    if found is None:
        from qwen3_mlx.hub import download

        found = download.snapshot(source)
    return _as_folder(found, source)


def find_local(name: str) -> Path | None:
    """As `resolve`, but None if a download would be needed. Makes no request."""
    source = parse(name)
    found = source.path or complete_snapshot(source)
    return None if found is None else _as_folder(found, source)


def _as_folder(path: Path, source: Source) -> Path:
    """`path`, or for a GGUF model the folder of files that represents it."""
    if path.is_dir() and not source.variant and not folder.only_gguf(path):
        return path
    if path.is_dir() and source.repo:
        return folder.of(path / gguf_choice(gguf_names(path), source))
    return folder.of(path)


def bundled() -> list[tuple[str, Path]]:
    """The models in the package, as (name, directory)."""
    package = Path(__file__).parents[1]
    folders = [(name, package / name) for name in _BUNDLED]
    return [(name, path) for name, path in folders if (path / "config.json").is_file()]


def is_model_name(text: str) -> bool:
    """Whether `text` has the form of a model's name rather than of a prompt."""
    if text in _BUNDLED or releases.find(text) or _REPO.fullmatch(text) or _is_gguf(text):
        return True
    # A prompt may begin with a path or a soft switch, but continues after it.
    bare = not any(map(str.isspace, text)) and text not in ("/think", "/no_think")
    return (bare and _looks_like_path(text)) or _is_model_directory(text)


def may_be_words(text: str) -> bool:
    """Whether `text` has only a repository's form, as "and/or" and "24/7" have.

    Names of repositories mostly have a digit among letters, a hyphen or an underscore, or "qwen".
    """
    parts = text.split("/")
    bare = all(map(str.isalpha, parts)) or all(map(str.isdigit, parts))
    if not _REPO.fullmatch(text) or "qwen" in text.lower() or not bare:
        return False
    try:
        return find_local(text) is None
    except Qwen3Error:  # found, and damaged
        return False


def parse(name: str) -> Source:
    """The source that `name` refers to. Raises `ModelNotFoundError` with similar names."""
    if not is_utf8(name):
        hint = "rename the directory: MLX opens no file by such a path"
        raise ModelNotFoundError("a path that is no UTF-8", got=shown(name), hint=hint)
    if name in (bundled_names := dict(bundled())):
        return Source(path=bundled_names[name])
    if _is_gguf(name):
        return Source(path=expanded(name))
    if name and (_is_model_directory(name) or (_looks_like_path(name) and _is_directory(name))):
        return Source(path=expanded(name))
    if release := releases.find(name):
        return Source(repo=release.repo)
    if is_repo(name) and not _is_file(name):
        named, _, revision = name.partition("@")
        repo, _, variant = named.partition(":")
        return Source(repo=repo, revision=revision or "main", variant=variant)
    raise _not_found(name)


def is_repo(name: str) -> bool:
    """Whether `name` has a repository's form, ``owner/name``, and isn't a path's."""
    return _REPO.fullmatch(name) is not None and not _looks_like_path(name)


def _is_model_directory(name: str) -> bool:
    """Whether `name` is a directory with a model's file in it, not necessarily a whole model."""
    try:
        found = expanded(name).iterdir() if _is_directory(name) else ()
        return any(one.name == "config.json" or one.suffix in _WEIGHTS for one in found)
    except OSError:  # it may not be read
        return False


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf") and _is_file(name)


def _is_file(name: str) -> bool:
    try:
        return expanded(name).is_file()
    except (OSError, RuntimeError, ValueError):
        return False


def _is_directory(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such home, a NUL
        return False


def _looks_like_path(name: str) -> bool:
    if name.startswith(("./", "../", "/", "~")) or name.endswith("/") or name in (".", ".."):
        return True
    return name.partition("@")[0].count("/") > 1


def _not_found(name: str) -> ModelNotFoundError:
    if page := _PAGE.fullmatch(name):
        revision = f"@{page[7]}" if page[7] not in (None, "main") else ""
        expected, hint = "a repository owner/name", f"name it so: {page[4]}{revision}"
        return ModelNotFoundError("a page is no model", got=name, expected=expected, hint=hint)
    if _looks_like_path(name) or _is_file(name):
        path = Path(name)
        try:
            if path.is_file():
                hint = f"give the directory that holds it: {path.parent}"
                return ModelNotFoundError("a file is no model directory", got=name, hint=hint)
            siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        except OSError:
            siblings = []
        close = difflib.get_close_matches(path.name, siblings)
        hint = f"near it lies: {', '.join(close)}" if close else "check the path"
        return ModelNotFoundError("no such model directory", got=name, hint=hint)
    if name in _BUNDLED:
        got = f"nothing at {Path(__file__).parents[1] / name}"
        hint = "install the package as files: MLX can't read weights out of a zip"
        return ModelNotFoundError(f"the bundled {name} isn't there", got=got, hint=hint)
    bundled_names = [name for name, _ in bundled()]
    known = [*bundled_names, *releases.aliases()]
    released = (*releases.RELEASES, *releases.RETRIEVAL)
    main = ", ".join([*bundled_names, *(release.alias for release in released)])
    close = difflib.get_close_matches(name.lower().removeprefix("qwen3-"), known, n=3, cutoff=0.4)
    did_you_mean = f"did you mean {', '.join(close)}?" if close else f"aliases: {main}"
    return ModelNotFoundError(
        "unknown model",
        got=shown(name),
        expected="an alias, a directory, or a repository owner/name",
        hint=did_you_mean,
    )
