"""Document stores: the source of truth for documents. Contract in `base.py`."""
