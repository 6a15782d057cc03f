"""The compressors, one per file: transforms (prune, seed, int, cast, share) and packers (raw, zstd, ans)."""
