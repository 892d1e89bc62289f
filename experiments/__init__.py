"""The tasks of `run.py`: each is one function `run(cfg)`."""
