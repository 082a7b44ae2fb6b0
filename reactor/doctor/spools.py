"""The spools: folders where the app leaves bytes, and from which the reactor reads and removes them."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reactor.core.settings import Settings
from reactor.doctor.finding import Check, Finding, Group, ok, problem, warning
from reactor.storage.spool_probe import probe

LOW_BYTES = 1024**3


def spool_groups(settings: Settings) -> list[Group]:
    """Return a group for each spool: one disk that hangs must not hide the others."""
    groups = []
    for name, folder in settings.spools.items():
        setting = "REACTOR_SPOOL_DIR" if name == "default" else "REACTOR_SPOOLS"
        fix = f"make it a folder that belongs to the reactor's user (uid {os.geteuid()}), or correct {setting}"
        check = f"spool {name}"
        groups.append(Group(checks=[Check(name=check, examine=partial(examine_folder, check, folder), fix=fix)]))
    return groups


def examine_folder(check: str, folder: Path) -> Iterator[Finding]:
    """Try the folder, and look at the space that is left."""
    free_bytes = probe(folder)
    seen = f"{folder} can be read, written and cleared; {free_bytes / 1024**3:.1f} GiB free"
    if free_bytes == 0:
        yield problem(check, f"{folder} is full", "make room: purge dead uploads (`reactor uploads purge`), or grow it")
    elif free_bytes < LOW_BYTES:
        yield warning(check, seen, "make room on its disk: an app that can't spool loses what it can't store")
    else:
        yield ok(check, seen)
