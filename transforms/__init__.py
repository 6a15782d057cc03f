"""The compressors, one per file: transforms (prune, seed, int, cast) and packers (raw, zstd, ans)."""
