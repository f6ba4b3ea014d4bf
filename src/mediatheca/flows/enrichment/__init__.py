"""Fields that are computed after a document was written, and how they get into it."""
