"""Several machines on paper, held to what two H200 and others' Macs have read."""

from __future__ import annotations

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit.group_speed import (
    JACCL,
    TCP,
    Link,
    Place,
    mac,
    read_machines,
    tokens_a_second,
)
from qwen3_mlx.hub.releases import SIZES


def config_of(size: str, bits: int = 4) -> Qwen3Config:
    packing = {"quantization": {"bits": bits, "group_size": 64}}
    return Qwen3Config.from_dict(SIZES[size].config() | packing)


H200 = Place(4.0e12, 60e-6)


@pytest.mark.parametrize(
    ("size", "attention", "sum_us", "read"),
    [
        ("8B", True, 30, 196.6),
        ("8B", False, 30, 257.5),
        ("30B-A3B", True, 30, 167.1),
        ("30B-A3B", False, 30, 203.9),
        ("235B-A22B", False, 18.5, 101.0),
    ],
)
def test_two_h200(size: str, attention: bool, sum_us: float, read: float) -> None:
    link = Link("NCCL", sum_us * 1e-6)
    said = tokens_a_second(config_of(size), Share(0, 2, attention), H200, link)
    assert said == pytest.approx(read, rel=0.12)


@pytest.mark.parametrize(("machines", "read"), [(1, 19.5), (2, 26.2), (4, 31.9)])
def test_others_m3_ultras(machines: int, read: float) -> None:
    """exo's chart of 235B-A22B in 8 bits."""
    said = tokens_a_second(config_of("235B-A22B", 8), Share(0, machines), mac(512), JACCL)
    assert said == pytest.approx(read, rel=0.06)


def test_slow_links_want_fewer_sums() -> None:
    config = config_of("235B-A22B")
    split, whole = Share(0, 2), Share(0, 2, attention=False)
    assert tokens_a_second(config, whole, mac(128), TCP) > tokens_a_second(
        config, split, mac(128), TCP
    )
    assert tokens_a_second(config, split, mac(128), JACCL) > tokens_a_second(
        config, whole, mac(128), JACCL
    )


def test_machines_are_read() -> None:
    assert read_machines("2x128") == (2, 128.0)
    assert read_machines(" 4X96.5 ") == (4, 96.5)
    for text in ("", "128", "1x128", "17x128", "2x", "2x0", "x128", "2x128x3"):
        with pytest.raises(OptionError, match="machines"):
            read_machines(text)
