"""Keys of config.json that don't change the network: ignored ones, and ones with a fixed value."""

from __future__ import annotations

from typing import Any

# Keys without effect on inference, by the reason why they may be ignored.
_REASONS = {
    "model_type decides": ("architectures", "auto_map", "tokenizer_class", "finetuning_task"),
    "training only": (
        *("attention_dropout", "initializer_range", "output_router_logits", "router_aux_loss_coef"),
        *("router_z_loss_coef", "gradient_checkpointing", "label_smoothing"),
    ),
    "Qwen3 has no beginning-of-text token": ("bos_token_id",),
    "read with the tokenizer": ("eos_token_id",),
    "one sequence at a time, nothing is padded": ("pad_token_id", "sep_token_id"),
    "the tensors carry their dtype": ("dtype", "torch_dtype"),
    "classification heads only": ("id2label", "label2id", "num_labels", "problem_type"),
    "without meaning unless use_sliding_window": ("max_window_layers", "sliding_window"),
    "Qwen3 has no shared expert": ("shared_expert_intermediate_size",),
    "always": ("use_cache",),
    "transformers' own": (
        *("chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict"),
        *("is_decoder", "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"),
        *("cross_attention_hidden_size", "torchscript", "pruned_heads", "use_bfloat16", "prefix"),
        *("decoder_start_token_id", "task_specific_params", "tf_legacy_loss"),
        *("keys_to_ignore_at_inference", "_attn_implementation", "attn_implementation"),
        *("_attn_implementation_autoset", "attn_implementation_autoset", "_experts_implementation"),
        *("experts_implementation", "_commit_hash"),
    ),
    "generation_config.json decides, or the preset": (
        *("max_length", "max_new_tokens", "min_length", "do_sample", "early_stopping"),
        *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
        *("output_scores", "return_dict_in_generate", "forced_bos_token_id"),
        *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
        *("suppress_tokens", "begin_suppress_tokens"),
    ),
    "information": (
        *("transformers_version", "unsloth_fixed", "unsloth_version", "_name_or_path"),
        *("model_name", "mlx_lm_version", "mergekit_version"),
    ),
}
IGNORED = {key: reason for reason, keys in _REASONS.items() for key in keys}

# Keys whose other values would change the network, and their allowed values.
FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "num_nextn_predict_layers": (0, None),
    "partial_rotary_factor": (1, None),
    "pretraining_tp": (1, None),
    "qk_norm": (True, None),
    "qkv_bias": (False, None),
    "rope_interleaved": (False, None),
    "scoring_func": ("softmax", None),
    "use_mrope": (False, None),
    "use_qk_norm": (True, None),
    "use_sliding_window": (False, None),
}
