"""The file: header, checked payload, manifest, stacks, limits; reader, writer, and the same planes packed anew."""
