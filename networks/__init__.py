"""Architectures: torch only, one per file. Every network takes batch fields by keyword and returns `Restored`.

Options outside those that a docstring names raise ValueError.
"""
