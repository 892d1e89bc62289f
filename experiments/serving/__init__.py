"""The pages of task=serve: a photograph in, a restored one out, in a browser."""
