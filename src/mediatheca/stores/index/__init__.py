"""Search indexes: derived from the documents, always rebuildable. Contract in `base.py`."""
