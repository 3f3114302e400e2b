"""Messages in, events out: turns, sessions, and the files that hold conversations."""
