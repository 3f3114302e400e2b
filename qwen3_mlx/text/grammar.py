"""Constrained decoding with llguidance: which tokens a grammar allows next.

A `Grammar` defines all valid answers, in llguidance's dialect of Lark; a `Vocabulary` wraps a
tokenizer for llguidance; a `Match` follows one answer, token by token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from qwen3_mlx.errors import OptionError
from qwen3_mlx.text.schema_keywords import prepared
from qwen3_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

_CONTROL = frozenset(map(chr, [*range(0x20), 0x7F])) - frozenset("\b\f\n\r\t")
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON in Qwen's own style; blanks are fixed, so that the model can't generate them endlessly."""
_ESCAPES = 'nrtbf\\"'
"""Allowed escapes, without ``\\u0061``: as a key it would be a duplicate of ``a``."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The Lark rules of a whole answer; the first line is the rule `start`."""

    rules: str
    what: str
    """The option that the grammar was made from, for error messages."""


def schema_grammar(schema: Mapping[str, Any]) -> Grammar:
    """The grammar of JSON valid under `schema`. Raises `OptionError` for an unsupported schema."""
    return Grammar(f"start: json\njson: {json_rule(schema, 'schema')}\n", "schema")


def regex_grammar(pattern: str) -> Grammar:
    """The grammar of texts that `pattern`, in the syntax of Rust's regex, matches whole.

    Raises `OptionError` for a lone surrogate; `Vocabulary.match` does for other faults.
    """
    from llguidance import regex_to_lark

    _check_whole("regex", pattern)
    return Grammar(f"start: /{regex_to_lark(pattern, use_ascii='')}/\n", "regex")


def either(first: Grammar, second: Grammar) -> Grammar:
    """The union of two grammars; apart from `start`, their rules must have different names."""
    (one, rest), (other, more) = (_parts(grammar) for grammar in (first, second))
    return Grammar(f"start: ({one}) | ({other})\n{rest}{more}", f"{first.what} and {second.what}")


def _parts(grammar: Grammar) -> tuple[str, str]:
    """The right side of the rule `start`, and the other rules."""
    start, _, rest = grammar.rules.partition("\n")
    return start.partition(":")[2].strip(), rest


def json_rule(schema: Mapping[str, Any], what: str, lenient: bool = False) -> str:
    """The right side of a rule for JSON under `schema`. Raises `OptionError`, naming `what`.

    With `lenient`, keywords that llguidance doesn't support are ignored. Formats that it doesn't
    know are in any case, as the standard has it.
    """
    from llguidance import LLMatcher

    _check_whole(what, *_texts(schema))
    escapes = _ESCAPES + ("u" if any(map(_CONTROL.intersection, _texts(schema))) else "")
    style = {**_STYLE, "json_allowed_escapes": escapes, "lenient": lenient}
    try:
        kept = prepared(schema, what, lenient)
        text = json.dumps({**kept, "x-guidance": style}, ensure_ascii=False)
        grammar = LLMatcher.grammar_from_json_schema(text)
    except RecursionError:
        _refuse(what, "it is nested too deeply")
    except ValueError as error:
        _refuse(what, str(error))
    wrong, said = LLMatcher.validate_grammar_with_warnings(grammar)
    if wrong:
        _refuse(what, said[0])
    return f"%json {text}"


def _texts(value: Any) -> Iterator[str]:
    """All strings in `value`, keys included, at any depth."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            left += one


def _check_whole(what: str, *texts: str) -> None:
    """Raise `OptionError` for a lone surrogate, which no answer in UTF-8 can contain."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            got = f"a lone surrogate at character {error.start} of {text!a:.60}"
            hint = "half a character: was an emoji cut?"
            raise OptionError(what, got=got, expected="whole characters", hint=hint) from None


def _refuse(what: str, said: str) -> NoReturn:
    lines = [line.strip() for line in said.strip().splitlines()] or ["it can't be read"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    sentence = (errors or lines)[0]
    hint = "leave that out, or ask for it in words and check the answer"
    if "coerce_one_of" in sentence:  # an option of llguidance's, which nobody here can set
        sentence = "oneOf of forms that an answer may follow at once"
        hint = "write anyOf, or a const in each form that tells them apart"
    raise OptionError(f"{what} can't be honoured", got=sentence, hint=hint)


class Vocabulary:
    """A tokenizer's tokens in llguidance's form; Qwen3's take about a second and 100 MB.

    `rows` is the number of the network's logits. Markers such as ``<think>`` never match as text.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self.eos = sorted(token for token in tokenizer.eos_ids if token < rows)
        if not self.eos:
            raise OptionError("this model's vocabulary has no token that ends an answer")
        self.rows = rows
        self._tokens = LLTokenizer(
            TokenizerWrapper(_Tokens(tokenizer, rows, self.eos[0])), rows, self.eos
        )

    def match(self, grammar: Grammar) -> Match:
        """A `Match` at the beginning of an answer.

        Raises `OptionError` for a grammar that is invalid, too large, or satisfied by no answer.
        """
        from llguidance import LLMatcher

        lark = LLMatcher.grammar_from_lark(grammar.rules)
        matcher = LLMatcher(self._tokens, lark, log_level=0)
        if matcher.is_error():
            _refuse(grammar.what, matcher.get_error())
        matcher.compute_bitmask()  # only this call detects that no token is allowed
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            _refuse(grammar.what, "no answer satisfies it")
        return Match(matcher, grammar.what)


class _Tokens:
    """The attributes and the call that llguidance's `TokenizerWrapper` expects of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, rows: int, eos: int) -> None:
        self.eos_token_id, self.bos_token_id = eos, None
        self.tokens = [tokenizer.id_to_bytes(token) for token in range(rows)]
        self.special_token_ids = sorted(tokenizer.added_ids)
        self._encode = tokenizer.encode_exactly

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode())


class Match:
    """The state of one answer within a grammar."""

    def __init__(self, matcher: LLMatcher, what: str) -> None:
        self._matcher, self._what = matcher, what

    def copy(self) -> Match:
        """An independent copy of the state."""
        return Match(self._matcher.deep_copy(), self._what)

    def mask(self) -> bytes:
        """A bit per token, set if the token may come next; token 0 is the lowest bit of byte 0."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def take(self, token: int) -> bool:
        """Append `token`; False if the grammar doesn't allow it."""
        return bool(self._matcher.try_consume_tokens([token]))

    def forced(self) -> list[int]:
        """The tokens that must come next, perhaps none; without the last if it ends the answer."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        taken = self._matcher.try_consume_tokens(tokens) if tokens else 0
        ended = taken and self._matcher.is_stopped()
        self._matcher.rollback(taken)
        self._check()
        return tokens[: taken - bool(ended)]

    @property
    def ended(self) -> bool:
        """Whether the answer is complete and no token but the end may follow.

        Raises `OptionError` if nothing may follow an incomplete one: no answer is finite.
        """
        stopped = self._matcher.is_stopped()
        if stopped and not self._matcher.is_accepting():
            _refuse(self._what, "no answer satisfies it")
        return stopped

    def _check(self) -> None:
        if self._matcher.is_error():
            _refuse(self._what, self._matcher.get_error())
