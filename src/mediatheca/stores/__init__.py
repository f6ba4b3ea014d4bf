"""Where things are kept: database, documents, index, blobs. Each family has one contract (`base.py`) and its adapters."""
