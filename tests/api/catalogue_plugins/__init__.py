"""Extractors of a third party, installed beside those that are shipped."""
