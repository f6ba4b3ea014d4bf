"""The helpers and plug-ins of the process tests serve here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
