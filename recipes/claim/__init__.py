"""The stacks that the claim of "seed assembly" compared; `benchmarks/claim` replays it."""
