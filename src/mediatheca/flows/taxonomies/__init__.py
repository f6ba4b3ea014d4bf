"""Taxonomies: documents joined with labels, and what of the labels is written into them."""
