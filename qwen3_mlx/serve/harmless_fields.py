"""Request fields that every dialect accepts and ignores without a note."""

HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "verbosity"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache_control"),
        *("context_management", "client_metadata", "truncation", "background", "betas"),
        *("extra_headers", "session_id", "include", "stream_options", "max_tool_calls"),
        *("skip_special_tokens", "add_generation_prompt", "inference_geo", "speed"),
    }
)
"""Fields that don't affect the answer here: the bookkeeping of hosted services."""
