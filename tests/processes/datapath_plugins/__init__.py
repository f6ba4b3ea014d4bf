"""Plug-ins of the data path tests."""
