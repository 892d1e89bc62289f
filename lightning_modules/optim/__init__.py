"""Schedules, and optimisers with rules for parts of a network."""
