"""Many jobs: how a sweep is launched and tabulated; files of sweeps for agents of W&B."""
