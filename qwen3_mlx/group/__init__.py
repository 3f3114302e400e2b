"""Runs one model on several machines: the plan, the control line, the leader and followers.

MLX does the collectives (ring, JACCL, NCCL); this room makes all machines compute the same pass at
the same time. Rank 0 is the process that chats: it announces every forward pass to the others.
"""
