"""What networks are made of besides layers."""
