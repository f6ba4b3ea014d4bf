"""Where things are kept: database, documents, index, blobs. A family has one contract (`base.py`) and its adapters."""
