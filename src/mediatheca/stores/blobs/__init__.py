"""Blob stores: raw files and extractor artifacts. Contract in `base.py`."""
