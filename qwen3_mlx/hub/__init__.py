"""A model's name to files on this machine: names, releases, the cache, downloads; never MLX."""
