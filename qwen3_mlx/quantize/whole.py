"""The whole checkpoint from which ``convert --shares`` cuts its files, and removes in the end.

A file beside it, ``OUT.shares``, says that such a run made it: a user's own is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import read_small
from qwen3_mlx.quantize.checkpoint_entries import foreign_entry
from qwen3_mlx.quantize.plan import as_json
from qwen3_mlx.quantize.staging import Target, full_disk, remove_checkpoint
from qwen3_mlx.quantize.target_check import check_file, is_empty


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole checkpoint of a run."""

    target: Target
    """Of the whole one, ``OUT.whole``."""
    mark: Path
    """``OUT.shares``."""

    def check(self) -> None:
        """Raise `OptionError` if ``OUT.whole`` or the mark's name is taken by the user's files."""
        check_file(self.mark, b'"key"')
        whole = self.target.out
        if not self.mark.exists() and self.target.record() is None and not is_empty(whole):
            hint = "move it away, or name another --out: the whole checkpoint is written there"
            raise OptionError("something is in the way", got=str(whole), hint=hint)

    def begin(self) -> None:
        """Mark it as the run's own unless it is there already. Raises `CheckpointError`."""
        if self.target.record() is not None or self._is_own():
            return
        try:
            self.target.disk.make_directory(self.mark.parent)
            self.target.disk.write_file(self.mark, as_json({"key": self.target.key}))
        except OSError as error:
            raise full_disk(error, self.target) from error

    def remove(self) -> None:
        """Remove it and the mark, if a run for shares made it. Raises `CheckpointError`."""
        if not self._is_own():
            return
        whole, disk = self.target.out, self.target.disk
        try:
            if whole.is_dir() and not whole.is_symlink() and foreign_entry(whole) is None:
                remove_checkpoint(disk, whole)
            disk.remove(self.mark)
        except OSError as error:
            raise full_disk(error, self.target) from error

    def _is_own(self) -> bool:
        try:
            values = json.loads(read_small(self.mark))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(values, dict) and values.get("key") == self.target.key
