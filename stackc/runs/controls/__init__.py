"""Controls: runs that must lose for a result to mean anything, and repetitions under other seeds."""
