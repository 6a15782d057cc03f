"""Composable compression-stacking for neural networks."""
