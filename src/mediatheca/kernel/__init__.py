"""Pure building blocks: no I/O, no framework, importable from everywhere."""
