"""How far a plan may be rewritten before it runs; see `mediatheca.flows.retrieve.optimise`."""

from typing import Literal, TypeAlias

Level: TypeAlias = Literal["semantic", "strict", "off"]
