"""Messages in, events out: a turn, a session, and what of them is written to the disk."""
