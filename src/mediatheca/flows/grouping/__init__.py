"""Clusters: documents grouped by their vectors or their attributes, in runs that remember the ones before."""
