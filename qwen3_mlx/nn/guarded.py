"""Kernels of a prompt's experts, until one fails: then MLX's operations, in the same turn."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory


class Guarded:
    """What the layers of one network share: whether its kernels may run, and which have."""

    def __init__(self, failed: Callable[[str], object]) -> None:
        self._failed = failed
        self._met: set[Hashable] = set()
        self.fault = ""

    def __call__(
        self, kind: Hashable, fused: Callable[[], mx.array], plain: Callable[[], mx.array]
    ) -> mx.array:
        """What `fused` makes, or `plain` from the first fault on. Raises if memory runs out.

        kind: what names the kernels; those of a new one are computed at once, within the guard.
        """
        if self.fault:
            return plain()
        try:
            made = fused()
            if kind not in self._met:
                computed(made)
                self._met.add(kind)
            return made
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if is_of_a_trace(error):
                return plain()
            self.fault = first_line(error)
            self._failed(self.fault)
            return plain()


def computed(*arrays: mx.array) -> None:
    """Compute `arrays`, except within a trace: the compiler and the device have their say."""
    try:
        mx.eval(*arrays)
    except ValueError as error:  # which is also how Metal refuses a launch
        if not is_of_a_trace(error):
            raise


def is_of_a_trace(error: Exception) -> bool:
    """Whether MLX refused to compute only because this thread is inside `mx.compile`.

    That is no fault of a kernel. Other threads' traces don't matter: since 0.32 the mark is a
    thread's own.
    """
    return "during function transformations" in str(error)


def first_line(error: Exception) -> str:
    """What `error` says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
