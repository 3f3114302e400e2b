"""A loaded model's parts, and how `load_runtime` loads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qwen3_mlx.device.backend import find_compiler

from qwen3_mlx.chat.concurrent_turns import ConcurrentTurns
from qwen3_mlx.checkpoint.adapter import Adapter, attach, read_adapter
from qwen3_mlx.checkpoint.fingerprint import fingerprint, stamp
from qwen3_mlx.checkpoint.load import load_network
from qwen3_mlx.checkpoint.match import is_body
from qwen3_mlx.checkpoint.share_files import tensors_of
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device import memory_limits
from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import BackendError, ConfigError, OptionError, Qwen3Error
from qwen3_mlx.files import read_json
from qwen3_mlx.fit import alternatives
from qwen3_mlx.fit.inequality import Weights, weights_from_config, weights_from_headers
from qwen3_mlx.group import membership
from qwen3_mlx.hub import kinds
from qwen3_mlx.hub.resolve import resolve
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import (
    AS_COMPUTED,
    CacheFormat,
    Family,
    check_context,
)
from qwen3_mlx.text import ChatTemplate, Tokenizer, stable_prefix
from qwen3_mlx.text.grammar import Vocabulary
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.tool_calls import Offer, Tools, parse_tool_calls

if TYPE_CHECKING:
    from qwen3_mlx.chat.draft import Drafts

BARE = "{{ messages[0].content }}"
"""The template of an embedding model that has none."""


@dataclass(frozen=True)
class Runtime:
    """A loaded model's network, tokenizer, template and sampling defaults."""

    name: str
    network: Qwen3Network
    config: Qwen3Config
    tokenizer: Tokenizer
    template: ChatTemplate
    family: Family
    """Which of Qwen3's forms this is, as its chat template behaves."""
    thinks_by_default: bool
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    """The checkpoint's directory, if it has one."""
    stamp: tuple[tuple[str, int, int], ...] = ()
    """Name, size and modification time of its files when they were loaded."""
    cache_format: CacheFormat = AS_COMPUTED
    """The format of its conversations' KV caches."""
    note: str = ""
    """A remark for the user about how the model was loaded; usually empty."""
    adapter: Adapter | None = None
    """The LoRA adapter beside its weights, if it has one."""
    kind: kinds.Kind = "chat"
    """What the model does: ``chat``, ``embedder`` or ``reranker``."""
    drafts: Drafts | None = None
    """Its source of drafts for speculative decoding, if it has one."""
    concurrent_turns: ConcurrentTurns = field(
        default_factory=ConcurrentTurns, init=False, repr=False, compare=False
    )
    """Batches the turns of several threads."""

    @cached_property
    def fingerprint(self) -> str | None:
        """A digest of the checkpoint's and adapter's files; None if they changed since loading."""
        try:
            if self.path is None or _stamp(self.path, self.adapter) != self.stamp:
                return None
            own = fingerprint(self.path)
            return own if self.adapter is None else f"{own} {self.adapter.fingerprint()}"
        except (OSError, Qwen3Error):
            return None

    @property
    def helper(self) -> Qwen3Config | None:
        """The configuration of the draft model, if there is one."""
        return None if self.drafts is None else self.drafts.helper

    def new_cache(self) -> PromptCache:
        """An empty cache for one conversation."""
        return PromptCache(self.network, self.cache_format)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens in the form that grammars need; built for the first constrained answer."""
        return Vocabulary(self.tokenizer, self.config.vocab_size)

    def stable_prefix(
        self, messages: Sequence[MessageLike], tools: Tools | None, special_tokens: bool
    ) -> list[int]:
        """The ids with which every prompt that continues `messages` begins, within the context.

        special_tokens: whether special tokens in the messages' text are encoded as such.
        """
        text = (self.template, self.tokenizer, messages, tools or None)
        return stable_prefix(*text, special_tokens_in_text=special_tokens)[: self.config.context]

    def markers(self, tools: Tools) -> Markers:
        """The ids of the markers that structure a turn with `tools` on offer (may be empty)."""
        tokens = self.tokenizer
        plain = Markers(
            tokens.think_open, tokens.think_close, None, tokens.eos_ids, None, tokens.id_to_bytes
        )
        if not tools:
            return plain
        offer = Offer(tools)

        def is_call(text: bytes) -> bool:
            try:
                return bool(parse_tool_calls(text.decode("utf-8", "replace"), offer))
            except ValueError:
                return False

        return replace(plain, tool=tokens.tool_open, tool_close=tokens.tool_close, is_call=is_call)


class LoadedModel:
    """Read-only access to the parts of a loaded model."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def __reduce__(self) -> NoReturn:
        """Refuse pickling. Raises `BackendError`."""
        hint = "load it where it is needed: every process has its own"
        raise BackendError("a model can't be pickled, nor sent to a process", hint=hint)

    @property
    def note(self) -> str:
        """A remark for the user about how the model was loaded; usually empty."""
        return self.runtime.note

    @property
    def name(self) -> str:
        """The name given to `load`."""
        return self.runtime.name

    @property
    def network(self) -> Qwen3Network:
        """The ``mlx.nn.Module``: ``network(tokens [B, L], cache=None) -> logits [B, L, V]``."""
        return self.runtime.network

    @property
    def config(self) -> Qwen3Config:
        """The configuration, with YaRN if the context asks for it."""
        return self.runtime.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; special tokens are recognised and kept."""
        return self.runtime.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """The chat template: renders messages to the prompt's text."""
        return self.runtime.template

    @property
    def kind(self) -> kinds.Kind:
        """``chat``, ``embedder`` or ``reranker``."""
        return self.runtime.kind

    @property
    def family(self) -> Family:
        """``hybrid``, ``thinking``, ``instruct`` or ``coder``."""
        return self.runtime.family


def load_runtime(
    name: str | Path = "demo",
    *,
    context: int | None = None,
    kv_bits: int | None = None,
    kv_window: int | None = None,
    kv_sinks: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    adapter: str | Path | None = None,
) -> Runtime:
    """The parts of the model `name`. Arguments and errors as `qwen3_mlx.load`."""
    delay_exit_after_threads()
    about_to_compute()
    find_compiler()
    context = check_context(context)
    cache_format = CacheFormat(kv_bits, kv_window, kv_sinks)
    in_group = membership.own_share().size > 1  # a group may hold a model no single machine can
    alternatives.before_download(str(name), context, cache_format, force=force or in_group)
    path = resolve(str(name))
    # Before the other files: those of another architecture may fail with misleading errors.
    config = Qwen3Config.from_dir(path)
    cache_format.check(config.head_dim)
    tensors = tensors_of(path, membership.own_share())
    kind = "embedder" if is_body(tensors) else kinds.of_directory(path)
    weights = weights_from_headers(tensors.values())
    own, weights = _own_share(config, weights, adapter)
    note = alternatives.check(str(name), own, weights, context, cache_format, force=force)
    memory_limits.apply()
    loaded_adapter = None if adapter is None else read_adapter(adapter, config)
    files = _stamp(path, loaded_adapter)
    tokenizer, template = Tokenizer.from_dir(path), _template(path, kind)
    _check_vocabulary(tokenizer, config)
    family, thinks = _family(template, tokenizer)  # a damaged template is refused early
    if own is not config:
        network = membership.load_together(str(name), path, context, cache_format, force)
        config = config if context is None else config.for_context(context)
    else:
        network, config = load_network(path, context=context, on_progress=on_progress, force=force)
    if loaded_adapter is not None:
        attach(network, loaded_adapter)
    if loaded_adapter is not None or cache_format != AS_COMPUTED:
        choose_backend(network, cache_format)
    generation_config = read_json(path / "generation_config.json")
    return Runtime(
        str(name),
        network,
        config,
        tokenizer,
        template,
        family,
        thinks,
        generation_config,
        path,
        files,
        cache_format,
        note,
        loaded_adapter,
        kind,
    )


def _own_share(
    config: Qwen3Config, weights: Weights, adapter: str | Path | None
) -> tuple[Qwen3Config, Weights]:
    """Config and weights of this process's share. Raises `OptionError` for a group's adapter."""
    share = membership.own_share()
    if share.size == 1:
        return config, weights
    if adapter is not None:
        raise OptionError("an adapter in a group of machines", hint="convert --fuse it first")
    own = share.config(config)
    return own, weights_from_config(own)


def _template(path: Path, kind: kinds.Kind) -> ChatTemplate:
    """The chat template, optional for an embedder. Raises as `ChatTemplate.from_dir`."""
    if kind == "embedder" and not ChatTemplate.is_declared(path):
        return ChatTemplate(BARE)
    return ChatTemplate.from_dir(path)


def _stamp(path: Path, adapter: Adapter | None) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of all files of the model now. Raises `OSError`."""
    return (*stamp(path), *(adapter.stamp() if adapter else ()))


def _check_vocabulary(tokenizer: Tokenizer, config: Qwen3Config) -> None:
    """Raise `ConfigError` if the largest token id has no row in the embedding.

    A vocabulary with gaps may have larger ids: `engine.token_ids` checks every id that is used.
    """
    if tokenizer.largest_id >= config.vocab_size:
        raise ConfigError(
            "tokenizer.json: token id",
            got=tokenizer.largest_id,
            expected=f"below {config.vocab_size}, the config's vocab_size",
            hint="the tokenizer's files and the weights are not of one model",
        )


def _family(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[Family, bool]:
    """The family, and whether the model thinks by default.

    A plain template shows neither. If the vocabulary has <think> and </think>, the model may think,
    so it counts as hybrid: a budget applies, and a thought can be closed as soon as it opens.
    """
    if template.is_plain and None not in (tokenizer.think_open, tokenizer.think_close):
        return "hybrid", True
    return template.family, template.thinks_by_default
