"""Where a model's drafts come from: its conversations themselves, or a smaller model."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

from qwen3_mlx.chat.runtime import Runtime, load_runtime
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.background import BACKGROUND, Stopped
from qwen3_mlx.engine.draft import Check, FusedCheck, way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.lookup import Lookup
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.speculative import Speculating
from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import read_small
from qwen3_mlx.hub import resolve
from qwen3_mlx.hub.kinds import check_writes_text, of_directory
from qwen3_mlx.nn.trial_rows import RowsOnDemand

ALONE = ((4,), (2,))
"""Steps that have the texts of all checks of one sequence: so many rows of it."""

LOOKUP = "lookup"
"""The name of drafts that are looked up in the conversation."""
HINT = "Qwen3's chat models have one vocabulary: take a smaller one of them, such as 0.6b"


class Drafts:
    """Gives each conversation with `target` a drafter of its own."""

    def __init__(self, target: Runtime, source: Runtime | None) -> None:
        """source: the smaller model; None looks drafts up. Raises `OptionError` for a misfit."""
        self.name = LOOKUP if source is None else source.name
        self._target, self._source = target, source
        self._held: WeakKeyDictionary[PromptCache, Speculating] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._way: tuple[Check | None, str] | None = None
        self._proof = RowsOnDemand(target.network, target.cache_format)
        if source is not None:
            check_writes_text(source.kind, source.name)
            _check_same_tokens(target, source)

    @property
    def helper(self) -> Qwen3Config | None:
        """The smaller model's configuration, if it is one that drafts."""
        return None if self._source is None else self._source.config

    @property
    def way(self) -> tuple[Check | None, str]:
        """As `way_to_check`, for all conversations; has the kernels tried that it needs."""
        with self._lock:
            if self._way is None or (self._way[0] is None and self._proof.ended()):
                self._way = way_to_check(self._target.network, self._target.cache_format)
            return self._way

    def compile_ahead(self, stopped: Stopped = lambda: False) -> None:
        """Compile what checks of a conversation's drafts need, until `stopped` says so."""
        check = self.way[0]
        if isinstance(check, FusedCheck):
            check.rows.ahead.steps = ALONE
            while not stopped() and check.rows.ahead.compile_next():
                pass

    def of(self, conversation: PromptCache) -> Speculating | None:
        """What `conversation` needs; None where `way` says why drafts can't pay here."""
        with self._lock:
            held = self._held.get(conversation) or self._new()
            if held is not None:
                self._held[conversation] = held
            return held

    def new(self) -> Speculating | None:
        """As `of`, for a single turn."""
        with self._lock:
            return self._new()

    def _new(self) -> Speculating | None:
        check, source = self.way[0], self._source
        if check is None:
            return None
        drafter = Lookup() if source is None else DraftModel(source.new_cache())
        return Speculating(drafter, check, Payoff())


def check_drafts(target: str, name: str | Path | None) -> None:
    """Raise what `with_drafts` would, before a weight of `target` is read or downloaded.

    As far as names and the files on this machine tell.
    """
    if name is None or name == LOOKUP:
        return
    path = resolve.find_local(str(name))
    if path is None:
        return
    config = Qwen3Config.from_dir(path)
    check_writes_text(of_directory(path), str(name))
    beside = resolve.find_local(target)
    if beside is not None:
        sizes = (config.vocab_size, Qwen3Config.from_dir(beside).vocab_size)
        _check_same_size(f"{name} can't draft for {target}", *sizes)


def with_drafts(target: Runtime, name: str | Path | None) -> Runtime:
    """`target` with drafts of the model `name`, or looked up, or without.

    Raises `OptionError` for another vocabulary, else as `load_runtime`.
    """
    if name is None:
        return target
    source = None if name == LOOKUP else load_runtime(name)
    drafts = Drafts(target, source)
    if isinstance(drafts.way[0], FusedCheck):
        BACKGROUND.run(drafts.compile_ahead)
    return replace(target, drafts=drafts)


def _check_same_tokens(target: Runtime, source: Runtime) -> None:
    """Raise `OptionError` unless every id means the same to both networks and their tokenizers."""
    what = f"{source.name} can't draft for {target.name}"
    _check_same_size(what, source.config.vocab_size, target.config.vocab_size)
    if _same_file(target.path, source.path):
        return
    mine, other = target.tokenizer, source.tokenizer
    for token in range(max(mine.vocab_size, other.vocab_size)):
        a, b = mine.id_to_bytes(token), other.id_to_bytes(token)
        if a != b:
            raise OptionError(what, got=f"token {token} is {b!r}", expected=f"{a!r}", hint=HINT)


def _check_same_size(what: str, source: int, target: int) -> None:
    if source != target:
        got, expected = f"a vocabulary of {source:,}", f"{target:,}"
        raise OptionError(what, got=got, expected=expected, hint=HINT)


def _same_file(one: Path | None, other: Path | None) -> bool:
    """Whether both models have the very tokenizer.json, which spares comparing all ids."""
    try:
        files = [read_small(path / "tokenizer.json") for path in (one, other) if path is not None]
    except OSError:
        return False
    return len(files) == 2 and files[0] == files[1]
