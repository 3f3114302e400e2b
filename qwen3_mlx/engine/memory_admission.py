"""Decides whether one more sequence fits into memory beside the running ones."""

from __future__ import annotations

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.guard import checked, not_enough_memory
from qwen3_mlx.fit.inequality import ways_to_free_memory
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.prefill_peak import chunk_bytes
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

CHUNK = 64
"""Tokens of the chunk that must fit; longer chunks are read if memory permits."""


class Admission:
    """The memory inequality for sequences that come and go:

    its keys and values + a chunk's scratch <= free - what the running ones will yet take.

    helper: the draft model's configuration; each sequence then needs its keys and values too.
    """

    def __init__(
        self,
        config: Qwen3Config,
        cache_format: CacheFormat = AS_COMPUTED,
        helper: Qwen3Config | None = None,
    ) -> None:
        self.config, self.format, self.helper = config, cache_format, helper

    def room(self, rows: int, promised: int, alone: bool, prefixes: Prefixes) -> bool:
        """Whether a sequence of `rows` tokens fits, evicting stored prefixes if necessary.

        promised: rows that the running sequences will still need. Raises `OutOfMemoryError` if the
        sequence doesn't fit although no other runs (`alone`).
        """
        if not checked():
            return True
        while True:
            place = machine.this_machine(swap=True)
            per_token = kv_bytes_per_token(self.config, self.format.bits, place.float_bytes or 2)
            packed = self.format.bits is not None
            scratch = chunk_bytes(self.config, place, CHUNK, rows, packed)
            needed = per_token * (self._held(rows) + self._held(promised)) + scratch
            if self.helper is not None:
                drafting = kv_bytes_per_token(self.helper, None, place.float_bytes or 2)
                needed += drafting * (rows + promised)
            if needed <= place.available_bytes:
                return True
            if not prefixes.evict():
                break
        if alone:
            ways = ways_to_free_memory(self.config, rows, self.format.bits, place.float_bytes or 2)
            raise not_enough_memory(needed, place, f"at {rows:,} tokens", f"try {ways}")
        return False

    def _held(self, rows: int) -> int:
        window = self.format.window
        return rows if window is None else min(rows, window + self.format.sinks)
