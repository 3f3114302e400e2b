"""Will it fit: this machine's memory, the inequality, what would fit instead."""
