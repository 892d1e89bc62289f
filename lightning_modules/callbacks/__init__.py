"""Callbacks: what happens around training steps, each with one job."""
