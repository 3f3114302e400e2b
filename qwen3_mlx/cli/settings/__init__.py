"""Settings, the program's folders, and shell completion."""
