"""`mediatheca demo`: a server of its own, a small multimodal set, four searches, and the curl line of each."""

from mediatheca.demo.run import run

__all__ = ["run"]
