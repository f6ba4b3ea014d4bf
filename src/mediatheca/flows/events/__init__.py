"""Events for callers: the change feed, its live stream, and the catalogue."""
