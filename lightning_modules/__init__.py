"""Training procedures, losses, metrics, loggers and callbacks."""

import logging
import warnings

import pytorch_lightning  # noqa: F401  # sets its own log level when imported, so it has to come first

# Lightning announces hardware and sister products at INFO; warnings are what a reader needs.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
# Between Lightning and torch; nothing a user could do about it.
warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
