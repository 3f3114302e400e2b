"""Shell completion: models, recipes, conversations, keys, values.

It must be fast, so nothing here imports MLX or uses the network. Each function takes the word typed
so far and returns (word, remark) pairs for typer. Typer's zsh script evaluates both, so neither may
contain a backslash or rich's markup.
"""

from __future__ import annotations

import re
import time

import typer

Words = list[tuple[str, str]]
"""Pairs of a possible word and a remark about it."""
_UNSAFE = re.compile(r"[^\w ,.;:!?/@+*=<>()-]+")


def models(incomplete: str) -> Words:
    """Models on this machine, then aliases of models to download."""
    from qwen3_mlx.hub import installed, releases, resolve

    bundled = dict(resolve.bundled())
    here = [m for m in installed.everything() if not m.problem and not _UNSAFE.search(m.name)]
    known = {model.name for model in here}
    words = [(m.name, "bundled" if m.name in bundled else "on this machine") for m in here]
    return words + [
        (release.alias, "to be downloaded")
        for release in releases.RELEASES
        if release.alias not in known
    ]


def sources(incomplete: str) -> Words:
    """Sources of `convert`, where an alias means Qwen's original."""
    from qwen3_mlx.hub import releases

    every = (*releases.RELEASES, *releases.RETRIEVAL)
    return [(release.alias, f"Qwen/{release.name}") for release in every]


def recipes(incomplete: str) -> Words:
    """The recipes of `convert`."""
    from qwen3_mlx.config.recipes import RECIPES

    return [(recipe.name, recipe.about) for recipe in RECIPES.values()]


def conversations(incomplete: str) -> Words:
    """Saved conversations, the latest first."""
    from qwen3_mlx.chat import journal, journal_files
    from qwen3_mlx.cli.settings import folders
    from qwen3_mlx.errors import SessionError

    words = []
    for path in journal_files.all_in(folders.sessions())[:50]:
        if path.stem.startswith(incomplete):
            try:
                title = _UNSAFE.sub(" ", journal.read(path).title)[:40]
            except SessionError:
                continue
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            words.append((path.stem, f"{when} {title}"))
    return words


def keys(incomplete: str) -> Words:
    """The keys of the configuration file."""
    from qwen3_mlx.cli.settings import settings

    return [(key.name, key.help) for key in settings.KEYS.values()]


def values(ctx: typer.Context, incomplete: str) -> Words:
    """Values of the key that was typed before."""
    from qwen3_mlx.cli.settings import settings

    key = settings.KEYS.get(ctx.params.get("key") or "")
    if key is None:
        return []
    if key.name == "model":
        return models(incomplete)
    choices = key.choices or (("true", "false") if key.kind is bool else ())
    return [*((choice, "") for choice in choices), (settings.DEFAULT, key.builtin)]
