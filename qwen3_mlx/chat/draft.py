"""Speculative decoding for a loaded model: drafts from the conversation or a smaller model."""

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
"""Row counts per step that cover every kernel used to check one sequence's drafts."""

LOOKUP = "lookup"
"""The draft "model" that copies from the conversation (prompt lookup)."""
HINT = "Qwen3's chat models have one vocabulary: take a smaller one of them, such as 0.6b"


class Drafts:
    """One drafter per conversation with `target`."""

    def __init__(self, target: Runtime, source: Runtime | None) -> None:
        """source: the smaller model; None looks drafts up. Raises `OptionError` on a mismatch."""
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
        """The configuration of the draft model; None with prompt lookup."""
        return None if self._source is None else self._source.config

    @property
    def way(self) -> tuple[Check | None, str]:
        """`way_to_check` for all conversations; runs the trial of the kernels it needs."""
        with self._lock:
            if self._way is None or (self._way[0] is None and self._proof.ended()):
                self._way = way_to_check(self._target.network, self._target.cache_format)
            return self._way

    def reconsider(self) -> None:
        """Check drafts by kernels that were proven meanwhile; called while nothing runs."""
        with self._lock:
            self._way, self._proof = (
                None,
                RowsOnDemand(self._target.network, self._target.cache_format),
            )
            self._held.clear()

    def compile_ahead(self, stopped: Stopped) -> None:
        """Compile the kernels that check drafts, until `stopped()` is true."""
        check = self.way[0]
        if isinstance(check, FusedCheck):
            check.rows.ahead.steps = ALONE
            while not stopped() and check.rows.ahead.compile_next():
                pass

    def of(self, conversation: PromptCache) -> Speculating | None:
        """The drafting state of `conversation`; None where `way` says why drafts can't pay."""
        with self._lock:
            held = self._held.get(conversation) or self._new()
            if held is not None:
                self._held[conversation] = held
            return held

    def new(self) -> Speculating | None:
        """The drafting state of a single turn; None as in `of`."""
        with self._lock:
            return self._new()

    def _new(self) -> Speculating | None:
        check, source = self.way[0], self._source
        if check is None:
            return None
        drafter = Lookup() if source is None else DraftModel(source.new_cache())
        return Speculating(drafter, check, Payoff())


def check_drafts(target: str, name: str | Path | None) -> None:
    """Raise the errors of `with_drafts` before `target`'s weights are read or downloaded.

    Checks only what the names and the files on this machine show.
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
    """`target` with drafts from the model `name`, from prompt lookup, or without drafts (None).

    Raises `OptionError` if the vocabularies differ; otherwise as `load_runtime`.
    """
    if name is None:
        return target
    source = None if name == LOOKUP else load_runtime(name)
    drafts = Drafts(target, source)
    if isinstance(drafts.way[0], FusedCheck):
        BACKGROUND.run(drafts.compile_ahead)
    return replace(target, drafts=drafts)


def _check_same_tokens(target: Runtime, source: Runtime) -> None:
    """Raise `OptionError` unless both models map every token id to the same bytes."""
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
    """Whether both models' tokenizer.json are equal, so that no id needs comparing."""
    try:
        files = [read_small(path / "tokenizer.json") for path in (one, other) if path is not None]
    except OSError:
        return False
    return len(files) == 2 and files[0] == files[1]
