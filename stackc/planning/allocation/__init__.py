"""Rate allocation: which step, rank and sparsity each tensor gets, so that a file of a given size loses the least.

`allocate` explores what the recipe leaves open (``step: auto`` and the like), tensor by tensor, and chooses where every
byte buys the same decrease of the estimated loss.
"""
