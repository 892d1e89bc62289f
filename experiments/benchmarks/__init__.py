"""Scripts that measure what the code's choices of algorithm rest on."""
