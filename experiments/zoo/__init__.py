"""Weights by name: what was trained here, each file with a card, and weights on Hugging Face by their address."""
