"""Uploaded extractors and models: archive → checked → kept → deployed. Their code runs only in confined processes."""
