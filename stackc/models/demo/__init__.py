"""The offline demo: a small trained sentiment classifier and the movie-review sentences that measure it."""
