"""Objects and their blobs: create (one or a thousand), read, change.

Blobs are shared by content inside a namespace. A stored file has a key of its own, never seen by anybody before the
commit that refers to it; later objects with the same content refer to the same key. Whoever removes the last reference
removes the file, and whoever adds one holds an existing reference while committing: no file vanishes under an object.
"""
