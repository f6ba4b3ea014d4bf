"""A provider package, found through `MEDIATHECA_PLUGINS` like anybody's."""
