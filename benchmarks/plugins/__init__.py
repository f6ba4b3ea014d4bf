"""Plug-ins that cost next to nothing, so that a benchmark measures the server and not a model."""
