"""Make tests/golden/retrieval/: tiny embedders and a reranker, and what transformers gives.

    python -m venv golden && golden/bin/pip install torch==2.13.0 transformers==5.24.0
    golden/bin/python -m tests.golden.make_retrieval

The vectors and scores are computed as the cards of Qwen3-Embedding and Qwen3-Reranker show it:
padded on the left, pooled at the last token, the answer's two logits. Each directory has
config.json, model.safetensors, tokenizer.json (which puts the end token behind every text) and
expected.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, processors
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from tests.golden.make_network import draw, tensor_shapes
from tests.tiny_tokenizer import tiny_backend

OUT = Path(__file__).parent / "retrieval"
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "rope_theta": 1e6,
}
TEXTS = [
    "The capital of China is Beijing.",
    "",
    "Gravity is a force that attracts two bodies towards each other. " * 3,
    "你好，世界。 Привет 🎉",
    "x",
]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def tokenizer_files(directory: Path) -> PreTrainedTokenizerFast:
    """Write tokenizer.json as Qwen3-Embedding's is, and return it padding on the left."""
    backend = tiny_backend()
    backend.add_tokens(["yes", "no"])
    end = backend.token_to_id("<|endoftext|>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    backend.save(str(directory / "tokenizer.json"))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(directory / "tokenizer.json")),
        pad_token="<|endoftext|>",
        padding_side="left",
    )


def write(name: str, *, body: bool, tied: bool, seed: int) -> tuple[Path, PreTrainedTokenizerFast]:
    """Write one checkpoint: the body's tensors under its own names, or a causal model's."""
    directory = OUT / name
    directory.mkdir(parents=True)
    tokenizer = tokenizer_files(directory)
    sizes = SIZE | {"vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    rope = {"rope_type": "default", "rope_theta": sizes["rope_theta"]}
    config = Qwen3Config(**{k: v for k, v in sizes.items() if k != "rope_theta"})
    config.rope_parameters = rope
    config.architectures, config.dtype = ["Qwen3ForCausalLM"], torch.float32
    config.save_pretrained(directory)
    rng = np.random.default_rng(seed)
    tensors = {n: draw(n, s, SIZE["head_dim"], rng) for n, s in tensor_shapes(sizes).items()}
    if body:
        tensors = {n.removeprefix("model."): w for n, w in tensors.items() if n != "lm_head.weight"}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory, tokenizer


@torch.no_grad()
def vectors(directory: Path, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return the normalised states at the last token, as the card computes them."""
    model = AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    return torch.nn.functional.normalize(model.eval()(**inputs).last_hidden_state[:, -1])


@torch.no_grad()
def scores(directory: Path, tokenizer: PreTrainedTokenizerFast, query: str) -> list[float]:
    """Return the probabilities of "yes" over "no", as the card computes them."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    found = []
    for document in TEXTS:
        text = f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {document}"
        ids = [
            token
            for part in (BEFORE, text, AFTER)
            for token in tokenizer.encode(part, add_special_tokens=False)
        ]
        logits = model.eval()(torch.tensor([ids])).logits[0, -1]
        pair = logits[tokenizer.convert_tokens_to_ids(["no", "yes"])]
        found.append(float(torch.log_softmax(pair, 0)[1].exp()))
    return found


def main() -> None:
    """Make every case."""
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, (name, tied) in enumerate({"embedder": True, "embedder-headless": False}.items()):
        directory, tokenizer = write(name, body=True, tied=tied, seed=seed)
        expected = {
            "texts": TEXTS,
            "vectors": vectors(directory, tokenizer, TEXTS).tolist(),
            "task": TASK,
            "queries": vectors(
                directory, tokenizer, [f"Instruct: {TASK}\nQuery:{text}" for text in TEXTS]
            ).tolist(),
        }
        (directory / "expected.json").write_text(json.dumps(expected))
    directory, tokenizer = write("reranker", body=False, tied=False, seed=7)
    query = "What is the capital of China?"
    expected = {"query": query, "documents": TEXTS, "scores": scores(directory, tokenizer, query)}
    (directory / "expected.json").write_text(json.dumps(expected))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    modules = [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (OUT / "embedder" / "modules.json").write_text(json.dumps(modules))
    print(expected["scores"])


if __name__ == "__main__":
    main()
