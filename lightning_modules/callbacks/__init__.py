"""Callbacks: what happens around training steps, each with one job. Values out of range raise ValueError."""
