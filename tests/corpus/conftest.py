"""The corpus lies in memory, where there is such a folder."""

from tests.quantize.conftest import tmp_path

__all__ = ["tmp_path"]
