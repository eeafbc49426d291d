"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".lock"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Holds `folder` for this process; OSError names the process that already does.

    A POSIX record lock: the system drops it however its process ends, so that none is ever stale, and loader workers
    that outlive a killed run do not inherit it. The file stays: to remove it would let two runs lock two files.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise OSError(
                f"trainer.default_root_dir {folder} is in use by {holder}: wait for it, or give another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
