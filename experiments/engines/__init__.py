"""Engines that compute networks on the CPU in the place of torch: OpenVINO and onnxruntime."""
