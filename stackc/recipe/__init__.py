"""Recipes: YAML with lines, validation, overrides, the lock file, the JSON Schema."""
