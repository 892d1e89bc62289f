"""Degradations on the device: kernels, blur, resampling, and the pipelines that turn `hr` into the other batch fields."""
