"""What a machine has left, by what the system says of it, and rooms for a prompt in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit import group_speed, machine
from qwen3_mlx.fit.kv_cache import growth, kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine
from tests.configs import DENSE, MOE, read


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of /proc and /sys, to be written: those that are read stand below it."""
    text = "MemTotal:  999 kB\nMemAvailable:  2000 kB\nSwapFree:  300 kB\n"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    return tmp_path


def limited(root: Path, limit: str, used: int = 0) -> None:
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text(limit)
    (root / "sys/fs/cgroup/memory.current").write_text(f"{used}\n")


def test_free_memory_and_swap_are_counted_in_kib(says: Path) -> None:
    assert machine._main_memory() == Machine(2000 * 1024, "free memory of this machine")
    assert machine._meminfo("SwapFree") == 300 * 1024
    assert machine._meminfo("Swap") is None
    quick = Machine(2000 * 1024, "free memory of this machine", 4, False)
    assert machine.quick_machine() == quick


@pytest.mark.parametrize(
    ("limit", "used", "left", "why"),
    [
        ("2048000", 1000, 2_047_000, "left of this container's memory"),
        ("1000", 2000, 0, "left of this container's memory"),
        ("2048000", 0, 2_048_000, "free memory of this machine"),
        ("9999999", 0, 2_048_000, "free memory of this machine"),
        ("max", 0, 2_048_000, "free memory of this machine"),
    ],
)
def test_a_container_may_have_less(says: Path, limit: str, used: int, left: int, why: str) -> None:
    limited(says, limit, used)
    assert machine._main_memory() == Machine(left, why)


def test_where_the_system_does_not_say(says: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (says / "proc/meminfo").unlink()
    sizes = {"SC_PHYS_PAGES": 3 * 2**20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert machine._main_memory() == Machine(12 * 2**30, "this machine's memory")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.quick_machine() == machine.mac(12)


@pytest.mark.parametrize(("swap", "more"), [(False, 0), (True, 300 * 1024)])
def test_this_machine_on_the_cpu(
    says: Path, monkeypatch: pytest.MonkeyPatch, swap: bool, more: int
) -> None:
    """What MLX keeps to use again is left; what is in use is not counted by the system either."""
    import mlx.core as mx

    monkeypatch.setattr("qwen3_mlx.device.backend.device", lambda: "cpu")
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 5000)
    left = 2000 * 1024 + 5000 + more
    why = "free memory of this machine"
    assert machine.this_machine(swap=swap) == Machine(left, why, 4, False)
    if not swap:
        assert machine.this_machine() == Machine(left, why, 4, False)
    (says / "proc/meminfo").write_text("MemAvailable: 2000 kB\n")
    assert machine.this_machine(swap=swap).available_bytes == 2000 * 1024 + 5000


@pytest.mark.parametrize(
    ("held", "left", "why"),
    [
        (0, 9_000_000_000, "this Mac's recommended GPU working set"),
        (100_000_000, 8_900_000_000, "this Mac's recommended GPU working set"),
        (
            100_000_001,
            8_899_999_999,
            "left of this Mac's recommended GPU working set, of which 0.1 GB are in use here",
        ),
        (
            1_000_000_000,
            8_000_000_000,
            "left of this Mac's recommended GPU working set, of which 1.0 GB are in use here",
        ),
        (
            10_000_000_000,
            0,
            "left of this Mac's recommended GPU working set, of which 10.0 GB are in use here",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["packed", "unpacked"])
def test_gpus(monkeypatch: pytest.MonkeyPatch, held: int, left: int, why: str, mode: str) -> None:
    import mlx.core as mx

    info = {"max_recommended_working_set_size": 9_000_000_000, "free_memory": 70}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "get_active_memory", lambda: held)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 7)
    monkeypatch.setattr("qwen3_mlx.device.unpack_policy.unpack_mode", lambda: mode)
    unpacks = mode != "packed"
    for device, found in (
        ("metal", Machine(left, why, None, True, unpacks)),
        ("cuda", Machine(77, "free on this machine's GPU", None, True, unpacks, 2**27)),
    ):
        monkeypatch.setattr("qwen3_mlx.device.backend.device", lambda device=device: device)
        assert machine.this_machine() == found


@pytest.mark.parametrize(
    ("limit", "left"), [("2", 1_500_000_000), ("0.5", 0), ("0.1", 0), ("3.5", 3_000_000_000)]
)
def test_a_limit_of_the_users(monkeypatch: pytest.MonkeyPatch, limit: str, left: int) -> None:
    monkeypatch.setenv(machine.LIMIT, limit)
    place = Machine(3_000_000_000, "free")
    found = machine._apply_limit(place, 500_000_000)
    assert found.available_bytes == left
    assert found.why == (
        "free" if left == 3_000_000_000 else f"left of the {limit} GB that {machine.LIMIT} allows"
    )


@pytest.mark.parametrize("limit", ["0", "-1", "much", "nan", "inf", "1e300", "1000001"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(machine.LIMIT, limit)
    with pytest.raises(OptionError) as caught:
        machine._apply_limit(Machine(1, ""), 0)
    said = f"{machine.LIMIT}: got {limit}, expected a number of GB above 0, at most 1,000,000"
    assert str(caught.value) == f"{said}\nhint: unset {machine.LIMIT} for no limit"


def test_macs() -> None:
    sold = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
    assert sold == machine.MAC_MEMORY_GB
    for size, share in ((0.5, "2/3"), (36, "2/3"), (36.5, "3/4"), (48, "3/4")):
        found = machine.mac(size)
        above, below = map(int, share.split("/"))
        assert found.available_bytes == int(above / below * size * 2**30)
        assert found.why == f"{share} of {size:g} GB: what macOS lets the GPU take by default"
        assert (found.float_bytes, found.fused_attention, found.unpacks) == (None, True, False)
    assert machine.mac(1_000_000).available_bytes == int(3 / 4 * 1_000_000 * 2**30)
    for size, bandwidth in ((191, 546e9), (192, 819e9), (512, 819e9)):
        assert group_speed.mac(size).bandwidth == bandwidth


def test_sixteen_machines_are_read() -> None:
    assert [group_speed.read_machines(f"{n}x8") for n in (2, 16)] == [(2, 8.0), (16, 8.0)]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_bytes_that_a_token_reads(tied: bool, packed: bool) -> None:
    """All matrices but an embedding that is no head; norms are floats; of experts 8 of 128."""
    packing = {"quantization": {"bits": 4, "group_size": 64}} if packed else {}
    config = read(MOE, num_hidden_layers=1, tie_word_embeddings=tied, **packing)
    attention = 1024 * (2 * 16 * 128 + 2 * 8 * 128)
    routed = 3 * 1024 * 768 * 8
    matrices = attention + routed + 1024 * 128 + 151_936 * 1024
    norms = 3 * 1024 + 2 * 128
    item = 4 / 8 + 2 * 2 / 64 if packed else 2
    assert group_speed.bytes_a_token(config) == pytest.approx(matrices * item + 2 * norms)


@pytest.mark.parametrize(
    ("share", "hops"),
    [
        (group_speed.Share(0, 1, pipeline=True), 0),
        (group_speed.Share(0, 2, pipeline=True), 2),
        (group_speed.Share(0, 3, pipeline=True), 3),
    ],
)
def test_a_pipeline_waits_for_hops(share: group_speed.Share, hops: int) -> None:
    config = read(DENSE)
    place = group_speed.Place(1e12, 1e-4)
    for link in (group_speed.Link("", 0.5), group_speed.Link("", 0.9, 0.5)):
        seconds = group_speed.bytes_a_token(config) / 1e12 + 28e-4 + hops * 0.5
        found = group_speed.tokens_a_second(config, share, place, link)
        assert 1 / found == pytest.approx(seconds)


@pytest.mark.parametrize(("head", "group"), [(64, 64), (128, 64), (96, 32)])
@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("width", [2, 4])
def test_bytes_of_keys_and_values(head: int, group: int, bits: int | None, width: int) -> None:
    """Per layer, head and group: the numbers, and where packed a scale and a bias."""
    config = read(DENSE, head_dim=head, num_hidden_layers=3, num_key_value_heads=2)
    groups = 2 * 3 * 2 * head // group
    one = group * width if bits is None else group * bits // 8 + 2 * width
    assert kv_bytes_per_token(config, bits, width) == groups * one
    assert kv_bytes_per_token(config, bits) == kv_bytes_per_token(config, bits, 2)


def test_bits_that_a_cache_has_not() -> None:
    for bits in (0, 2, 5, 16):
        with pytest.raises(OptionError) as caught:
            kv_bytes_per_token(read(DENSE), bits)
        assert str(caught.value) == f"kv-bits: got {bits}, expected 8 or 4, or nothing for 16"


def test_buffers_double_up_to_the_limit() -> None:
    """In blocks of 256 (`device.buffer_sizes.BLOCK`)."""
    assert list(growth(1300, 512, 4096)) == [(512, 512, 512), (512, 1024, 1024), (276, 1300, 2048)]
    assert list(growth(1300, 512, 1400))[-1] == (276, 1300, 1536)
    assert list(growth(700, 600, 600)) == [(600, 600, 768), (100, 700, 768)]
    assert list(growth(900, 600, 600))[-1] == (300, 900, 1536)
    assert list(growth(100, 512, 4096)) == [(100, 100, 256)]
    assert list(growth(0, 512, 4096)) == []
