"""Becomes a browser: puts the pipe of its control where it looks for it, and leaves the rights of root behind.

Run as a script: READ WRITE FOLDER COMMAND…, with two inherited descriptors. A browser of root runs without its sandbox,
so one that is started by root becomes `nobody`, who owns the folder.
"""

from __future__ import annotations

import os
import resource
import sys

NOBODY = 65534
_FILE_MB = 256


def main() -> None:
    reading, writing, folder, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    os.dup2(reading, 3)
    os.dup2(writing, 4)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_MB << 20, _FILE_MB << 20))
    os.chdir(folder)
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.execv(command[0], command)  # noqa: S606 (the command is ours)


if __name__ == "__main__":
    main()
