"""Access to MLX: its backend, its limits, and its errors."""
