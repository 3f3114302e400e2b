"""Several machines that run one model: who they are, the control line, and who leads or follows.

MLX carries the sums (ring, JACCL, NCCL); here is only what has them compute the same thing at the
same time. Rank 0 is the process that chats. It announces every forward pass, and the others follow.
"""
