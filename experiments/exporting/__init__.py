"""Networks as files that other programs can use; `experiments.export` is the task."""
