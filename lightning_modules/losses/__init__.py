"""What a training minimises."""

from lightning_modules.losses.multi_branch import MultiBranchLoss

__all__ = ["MultiBranchLoss"]
