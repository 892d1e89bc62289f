"""Checkpoints and weights: written, read, imported."""
