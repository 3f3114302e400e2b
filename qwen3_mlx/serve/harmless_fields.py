"""Request fields that every dialect ignores without a note, and hints for those it refuses."""

HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "verbosity"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache_control"),
        *("context_management", "client_metadata", "truncation", "background", "betas"),
        *("extra_headers", "session_id", "include", "stream_options", "max_tool_calls"),
        *("inference_geo", "speed"),
    }
)
"""Fields that don't affect the answer here: the bookkeeping of hosted services."""

HARMLESS_WITHIN = frozenset(
    {"summary", "generate_summary", "display", "name", "description", "strict"}
)
"""The same for fields within an object: how a thought is shown, and what a schema is called."""

OBJECTS = frozenset(
    {
        *("chat_template_kwargs", "reasoning", "thinking", "output_config", "text", "format"),
        *("response_format", "output_format", "json_schema"),
    }
)
"""Objects whose every field is read where the object is, so that the rest of them is unknown."""

INSTEAD = {
    "n": "ask once for each answer",
    "best_of": "ask once for each answer, and choose",
    "functions": "send them as tools",
    "function_call": "send it as tool_choice",
    "grammar": "send a guided_regex or a response_format",
    "guided_grammar": "send a guided_regex or a response_format",
    "suffix": "write it into the prompt",
    "conversation": "send previous_response_id, or the whole conversation in input",
    "prompt": "send its text in instructions or input",
}
"""What to send in place of a field that can't be honoured; for others, nothing."""

ELSEWHERE = {
    "messages": "/v1/chat/completions",
    "input": "/v1/responses",
    "prompt": "/v1/completions",
}
"""The paths whose requests begin with a field: some clients send one path's to another."""
