"""A folder in memory, where there is one: an index syncs many small files, and a disk may be slow.

What a killed process leaves behind is the same in memory as on a disk.
"""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 2**30  # containers often have 64 MiB, which one index fills


@contextmanager
def ram_folder():
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None) as folder:
        yield Path(folder)
