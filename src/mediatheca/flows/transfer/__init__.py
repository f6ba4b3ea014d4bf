"""Documents out of a collection as files, and into it from those of others; the schema that documents really have."""
