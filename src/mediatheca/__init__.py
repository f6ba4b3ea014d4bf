"""Mediatheca: an open, self-hosted multimodal data warehouse."""

__version__ = "0.1.0"
