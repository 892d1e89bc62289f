"""What was measured: records, published figures, and what W&B gets of them."""
