"""What any program could use: errors, lazy imports, paths, numbers as people read them, threads, the state of the process. Knows nothing of models."""
