"""Where a training is logged: CSV and W&B."""
