"""The parts that both chat interfaces share, and the line-based one."""
