"""Extractors for the tests of the runner: one package, found by its name."""
