"""Where a training is logged: CSV in any case, W&B, TensorBoard, MLflow."""
