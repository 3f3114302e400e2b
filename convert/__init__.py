"""The published conversions of the Qwen3 family."""
