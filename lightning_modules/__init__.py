"""Training procedures, losses, metrics, loggers and callbacks."""

import warnings

# Between Lightning and torch; nothing a user could do about it.
warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
