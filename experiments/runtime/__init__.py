"""What runs a job: its processes, launchers, folder and memory."""
