"""Degradations on the device: kernels, blur, resampling, and the pipelines that complete a batch."""
