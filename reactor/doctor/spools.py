"""Checks of the spools: the folders into which the app writes files, and from which the reactor deletes them."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reactor.core.settings import Settings
from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem, warning
from reactor.storage.spool_probe import probe

LOW_SPACE_BYTES = 1024**3


def spool_groups(settings: Settings) -> list[CheckGroup]:
    """Return one group per spool, so that a disk that hangs does not prevent the checks of other spools."""
    groups = []
    for name, folder in settings.spools.items():
        setting = "REACTOR_SPOOL_DIR" if name == "default" else "REACTOR_SPOOLS"
        fix = f"make it a folder owned by the reactor's user (uid {os.geteuid()}), or correct {setting}"
        check = f"spool {name}"
        groups.append(CheckGroup([Check(check, partial(examine_folder, check, folder), fix)]))
    return groups


def examine_folder(check: str, folder: Path) -> Iterator[Finding]:
    """Write, read and delete a probe file in the folder, and check the free space. Raises ConfigInvalid."""
    free_bytes = probe(folder)
    seen = f"{folder}: wrote, read and deleted a file; {free_bytes / 1024**3:.1f} GiB free"
    if free_bytes == 0:
        fix = "free some space: purge dead uploads (`reactor uploads purge`), or enlarge the disk"
        yield problem(check, f"the disk of {folder} is full", fix)
    elif free_bytes < LOW_SPACE_BYTES:
        yield warning(check, seen, "free some space on its disk: when the spool is full, the app loses failed uploads")
    else:
        yield ok(check, seen)
