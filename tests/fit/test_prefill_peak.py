"""The bound on a prefill's memory, term by term: its numbers as they were when it was measured.

test_inequality.py holds the bound to measurements within a tenth; what a small term
contributes is seen here alone. A changed number wants the measurements of benchmarks.memory anew.
"""

from __future__ import annotations

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.fit.prefill_peak import chunk_bytes, peak_bytes
from tests.configs import DENSE

SMALL = DENSE | {"num_hidden_layers": 3, "vocab_size": 1000}
MODELS = {
    "dense": SMALL | {"hidden_size": 640},
    "moe": SMALL
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 384,
        "num_experts": 24,
        "num_experts_per_tok": 5,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}
MACHINES = {
    "cpu": Machine(2**40, "", float_bytes=4, fused_attention=False),
    "gpu": Machine(2**40, ""),
    "unpacking gpu": Machine(2**40, "", unpacks=True),
}
SPANS = ((32, 32), (512, 5000), (2048, 2048), (2048, 40_000))
CASES: dict[str, tuple[int, ...]] = {
    "dense, 0, cpu": (
        3_547_961,
        105_039_857,
        222_302_112,
        222_302_112,
        3_686_897,
        122_823_706,
        222_302_112,
        222_302_112,
    ),
    "dense, 0, gpu": (
        1_879_640,
        30_014_245,
        120_044_980,
        120_044_980,
        2_018_576,
        51_723_045,
        128_936_904,
        293_715_380,
    ),
    "dense, 0, unpacking gpu": (
        1_879_640,
        30_014_245,
        120_044_980,
        120_044_980,
        2_018_576,
        51_723_045,
        128_936_904,
        293_715_380,
    ),
    "dense, 4, cpu": (
        18_500_983,
        121_712_216,
        223_413_602,
        223_413_602,
        18_917_792,
        139_496_065,
        227_859_564,
        227_859_564,
    ),
    "dense, 4, gpu": (
        1_879_640,
        30_014_245,
        120_044_980,
        120_044_980,
        2_018_576,
        51_723_045,
        128_936_904,
        293_715_380,
    ),
    "dense, 4, unpacking gpu": (
        31_056_267,
        59_190_872,
        149_221_607,
        149_221_607,
        31_195_203,
        80_899_672,
        158_113_532,
        322_892_007,
    ),
    "dense, 3, cpu": (
        18_500_983,
        121_712_216,
        223_413_602,
        223_413_602,
        18_917_792,
        139_496_065,
        227_859_564,
        227_859_564,
    ),
    "dense, 3, gpu": (
        1_879_640,
        30_014_245,
        120_044_980,
        120_044_980,
        2_018_576,
        51_723_045,
        128_936_904,
        293_715_380,
    ),
    "dense, 3, unpacking gpu": (
        31_056_267,
        59_190_872,
        149_221_607,
        149_221_607,
        31_195_203,
        80_899_672,
        158_113_532,
        322_892_007,
    ),
    "moe, 0, cpu": (
        4_867_856,
        106_707_093,
        306_775_394,
        306_775_394,
        5_284_665,
        124_490_942,
        306_775_394,
        306_775_394,
    ),
    "moe, 0, gpu": (
        6_109_600,
        97_693_600,
        390_762_400,
        390_762_400,
        6_387_472,
        141_111_200,
        408_546_248,
        738_103_200,
    ),
    "moe, 0, unpacking gpu": (
        6_109_600,
        97_693_600,
        390_762_400,
        390_762_400,
        6_387_472,
        141_111_200,
        408_546_248,
        738_103_200,
    ),
    "moe, 4, cpu": (
        21_382_826,
        124_490_942,
        247_866_394,
        247_866_394,
        21_382_826,
        142_274_791,
        247_866_394,
        247_866_394,
    ),
    "moe, 4, gpu": (
        6_109_600,
        97_693_600,
        390_762_400,
        390_762_400,
        6_387_472,
        141_111_200,
        408_546_248,
        738_103_200,
    ),
    "moe, 4, unpacking gpu": (
        32_785_373,
        124_369_373,
        417_438_173,
        417_438_173,
        33_063_246,
        167_786_973,
        435_222_022,
        764_778_973,
    ),
    "moe, 3, cpu": (
        21_382_826,
        124_490_942,
        247_866_394,
        247_866_394,
        21_382_826,
        142_274_791,
        247_866_394,
        247_866_394,
    ),
    "moe, 3, gpu": (
        6_109_600,
        97_693_600,
        390_762_400,
        390_762_400,
        6_387_472,
        141_111_200,
        408_546_248,
        738_103_200,
    ),
    "moe, 3, unpacking gpu": (
        32_785_373,
        244_410_353,
        537_479_153,
        537_479_153,
        33_063_246,
        287_827_953,
        555_263_002,
        884_819_953,
    ),
}


def model(name: str, bits: int) -> Qwen3Config:
    packed = {"group_size": 64, "bits": bits}
    return Qwen3Config.from_dict(MODELS[name] | ({"quantization": packed} if bits else {}))


def peaks(case: str) -> list[int]:
    """At each span, with a cache as computed and with a packed one."""
    name, bits, machine = case.split(", ")
    config = model(name, int(bits))
    return [
        chunk_bytes(config, MACHINES[machine], length, keys, packed)
        for packed in (False, True)
        for length, keys in SPANS
    ]


@pytest.mark.parametrize("case", CASES)
def test_each_term(case: str) -> None:
    assert tuple(peaks(case)) == CASES[case]


@pytest.mark.parametrize("length, keys, counts", [(32, 2048, True), (2048, 2048, False)])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_scores_count_where_attention_is_composed(
    name: str, length: int, keys: int, counts: bool
) -> None:
    """Two and a half arrays of float32 scores, and the keys in float32; for experts two layers'."""
    config = model(name, 4)
    heads, width = config.num_attention_heads, config.num_key_value_heads * config.head_dim
    most = 4 * heads * 32 * 2048
    plain, composing = (
        chunk_bytes(config, Machine(2**40, "", composed_scores=limit), length, keys, False)
        for limit in (0, most)
    )
    more = (2 if name == "moe" else 1) * (10 * heads * length * keys + 4 * width * keys)
    assert composing - plain == pytest.approx(1.06 * more if counts else 0, abs=1)


def test_a_tile_of_scores_has_64_columns_at_least() -> None:
    """Of 16,384 tokens at once, whose scores are tiles of attention."""
    found = chunk_bytes(model("dense", 4), MACHINES["cpu"], 16_384, 16_384, False)
    assert found == 1_243_761_936


def test_a_gpu_unpacks_matrices_from_eight_tokens_on() -> None:
    """A token more costs its arrays; the eighth the unpacked matrices too."""
    config, unpacking = model("dense", 4), MACHINES["unpacking gpu"]
    few, many, more = (chunk_bytes(config, unpacking, n, n, False) for n in (7, 8, 9))
    assert many - few > 100 * (more - many) > 0
    assert few == chunk_bytes(config, MACHINES["gpu"], 7, 7, False)


def test_a_gpu_unpacks_experts_from_eight_rows_each_on() -> None:
    """The mean over all of them: 48 tokens of four experts each, of 24."""
    changes = {"num_experts_per_tok": 4, "quantization": {"group_size": 64, "bits": 6}}
    config, unpacking = Qwen3Config.from_dict(MODELS["moe"] | changes), MACHINES["unpacking gpu"]
    few, many, more = (chunk_bytes(config, unpacking, n, n, False) for n in (47, 48, 49))
    assert many - few > 100 * (more - many) > 0


def test_a_chunk_for_which_no_buffer_grows_copies_none() -> None:
    """The third of four chunks of 300 tokens, in buffers of 1,024 positions."""
    config, machine = model("dense", 4), MACHINES["cpu"]
    rows = kv_bytes_per_token(config, None, 4)
    assert peak_bytes(config, machine, 1_000, 300) == (
        1_024 * rows,
        chunk_bytes(config, machine, 300, 900, False),
    )


PEAKS = {
    ("cpu", None, 5_000, 512): (201_326_592, 157_279_914),
    ("cpu", 8, 5_000, 512): (56_623_104, 149_499_480),
    ("cpu", 4, 300, 2_048): (1_966_080, 43_229_358),
    ("cpu", None, 2_048, 2_048): (50_331_648, 223_413_602),
    ("gpu", None, 5_000, 512): (100_663_296, 47_798_094),
    ("gpu", 8, 5_000, 512): (53_477_376, 70_097_373),
    ("gpu", 4, 300, 2_048): (1_769_472, 19_256_992),
    ("gpu", None, 2_048, 2_048): (25_165_824, 120_044_980),
}


@pytest.mark.parametrize("case", PEAKS, ids=str)
def test_the_peak_of_a_prefill(case: tuple[str, int | None, int, int]) -> None:
    """The cache's bytes and all others but the weights'."""
    machine, kv_bits, tokens, chunk = case
    assert peak_bytes(model("dense", 4), MACHINES[machine], tokens, chunk, kv_bits) == PEAKS[case]
