"""A deliverer in a process that a test kills: `python delivery_child.py DATABASE_URL`."""

from __future__ import annotations

import sys
import time

from delivery_world import World

from mediatheca.stores.db.engine import Database

if __name__ == "__main__":
    World(Database(sys.argv[1])).deliverer(per_target=8, lease_s=1.0)
    print("started", flush=True)
    time.sleep(600)
