"""The door to MLX: its backend, its limits, and how it fails."""
