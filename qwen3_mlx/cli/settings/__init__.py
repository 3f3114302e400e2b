"""Settings, the folders they lie in, and completion of arguments."""
