"""Healing: train what a stack stores through its decoder, and say whether the training or the stored model did the work."""
