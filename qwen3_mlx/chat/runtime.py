"""A loaded model's parts: its network, its text side, and what its files say about sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qwen3_mlx.device.backend import find_compiler

from qwen3_mlx.chat.company import Company
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
from qwen3_mlx.text import ChatTemplate, Tokenizer
from qwen3_mlx.text.grammar import Vocabulary
from qwen3_mlx.text.tool_calls import Offer, Tools, parse_tool_calls

if TYPE_CHECKING:
    from qwen3_mlx.chat.draft import Drafts

BARE = "{{ messages[0].content }}"
"""The template of an embedder without one: nobody chats with it."""


@dataclass(frozen=True)
class Runtime:
    """A loaded model: its network, its text side, and what its files say about sampling."""

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
    """What its files looked like when they were loaded."""
    cache_format: CacheFormat = AS_COMPUTED
    """How the keys and values of its conversations are kept."""
    note: str = ""
    """What its user should know of how it was loaded; mostly nothing."""
    adapter: Adapter | None = None
    """The LoRA adapter beside its weights, if it has one."""
    kind: kinds.Kind = "chat"
    """What it is for."""
    drafts: Drafts | None = None
    """Where drafts of its next tokens come from, if they do."""
    company: Company = field(default_factory=Company, init=False, repr=False, compare=False)
    """Turns of several threads, which run together."""

    @cached_property
    def fingerprint(self) -> str | None:
        """A digest of the files of checkpoint and adapter; None if they changed since loading."""
        try:
            if self.path is None or _stamp(self.path, self.adapter) != self.stamp:
                return None
            own = fingerprint(self.path)
            return own if self.adapter is None else f"{own} {self.adapter.fingerprint()}"
        except (OSError, Qwen3Error):
            return None

    @property
    def helper(self) -> Qwen3Config | None:
        """The configuration of the network that drafts for this one, if one does."""
        return None if self.drafts is None else self.drafts.helper

    def new_cache(self) -> PromptCache:
        """An empty cache for one conversation."""
        return PromptCache(self.network, self.cache_format)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its tokens as grammars take them; made when the first answer follows one."""
        return Vocabulary(self.tokenizer, self.config.vocab_size)

    def markers(self, tools: Tools) -> Markers:
        """The ids that structure a turn with these `tools` on offer, perhaps none."""
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
    """A model that is loaded, and its parts by name."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def __reduce__(self) -> NoReturn:
        """Say what to do in place of pickling a model."""
        hint = "load it where it is needed: every process has its own"
        raise BackendError("a model can't be pickled, nor sent to a process", hint=hint)

    @property
    def note(self) -> str:
        """What its user should know of how it was loaded; mostly nothing."""
        return self.runtime.note

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self.runtime.name

    @property
    def network(self) -> Qwen3Network:
        """The ``mlx.nn.Module``: ``network(tokens [B, L], cache=None) -> logits [B, L, V]``."""
        return self.runtime.network

    @property
    def config(self) -> Qwen3Config:
        """Its configuration, YaRN included if it was asked for."""
        return self.runtime.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; special tokens are recognised and kept."""
        return self.runtime.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """Messages to prompt text."""
        return self.runtime.template

    @property
    def kind(self) -> kinds.Kind:
        """What it is for: ``chat``, ``embedder`` or ``reranker``."""
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
    check_context(context)
    cache_format = CacheFormat(kv_bits, kv_window, kv_sinks)
    in_group = membership.own_share().size > 1  # which holds what no single machine could
    alternatives.before_download(str(name), context, cache_format, force=force or in_group)
    path = resolve(str(name))
    # First: another architecture's other files may look odd in any way.
    config = Qwen3Config.from_dir(path)
    cache_format.check(config.head_dim)
    tensors = tensors_of(path, membership.own_share())
    kind = "embedder" if is_body(tensors) else kinds.of_directory(path)
    weights = weights_from_headers(tensors.values())
    own, weights = _own(config, weights, adapter)
    note = alternatives.check(str(name), own, weights, context, cache_format, force=force)
    memory_limits.apply()
    beside = None if adapter is None else read_adapter(adapter, config)
    files = _stamp(path, beside)
    tokenizer, template = Tokenizer.from_dir(path), _template(path, kind)
    _check_vocabulary(tokenizer, config)
    family, thinks = _family(template, tokenizer)  # a damaged template is refused early
    if own is not config:
        network = membership.load_together(str(name), path, context, cache_format, force)
        config = config if context is None else config.for_context(context)
    else:
        network, config = load_network(path, context=context, on_progress=on_progress, force=force)
    if beside is not None:
        attach(network, beside)
    if beside is not None or cache_format != AS_COMPUTED:
        choose_backend(network, cache_format)
    said = read_json(path / "generation_config.json")
    return Runtime(
        str(name),
        network,
        config,
        tokenizer,
        template,
        family,
        thinks,
        said,
        path,
        files,
        cache_format,
        note,
        beside,
        kind,
    )


def _own(
    config: Qwen3Config, weights: Weights, adapter: str | Path | None
) -> tuple[Qwen3Config, Weights]:
    """What this process holds of a network, which is all of it unless it leads a group."""
    share = membership.own_share()
    if share.size == 1:
        return config, weights
    if adapter is not None:
        raise OptionError("an adapter in a group of machines", hint="convert --fuse it first")
    own = share.config(config)
    return own, weights_from_config(own)


def _template(path: Path, kind: kinds.Kind) -> ChatTemplate:
    """The chat template; an embedder may come without one. Raises as `ChatTemplate.from_dir`."""
    if kind == "embedder" and not ChatTemplate.is_declared(path):
        return ChatTemplate(BARE)
    return ChatTemplate.from_dir(path)


def _stamp(path: Path, adapter: Adapter | None) -> tuple[tuple[str, int, int], ...]:
    """What the files of a checkpoint and its adapter look like now. Raises `OSError`."""
    return (*stamp(path), *(adapter.stamp() if adapter else ()))


def _check_vocabulary(tokenizer: Tokenizer, config: Qwen3Config) -> None:
    """Raise `ConfigError` if a token has no row in the embedding, as far as that is seen at once.

    A vocabulary with gaps may have larger ids: `engine.token_ids` looks at every one that is used.
    """
    if tokenizer.largest_id >= config.vocab_size:
        raise ConfigError(
            "tokenizer.json: token id",
            got=tokenizer.largest_id,
            expected=f"below {config.vocab_size}, the config's vocab_size",
            hint="the tokenizer's files and the weights are not of one model",
        )


def _family(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[Family, bool]:
    """The family, and whether it thinks by default.

    A plain template tells neither. Where the vocabulary has thought's markers the model may think,
    so a budget can be armed and a thought be closed as soon as it opens, as with hybrid models.
    """
    if template.is_plain and None not in (tokenizer.think_open, tokenizer.think_close):
        return "hybrid", True
    return template.family, template.thinks_by_default
