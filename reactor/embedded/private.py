"""Folders of the embedded server and of a reactor that uses it: no other user may read them."""

import os
from pathlib import Path

from reactor.embedded.binaries import account_for

PRIVATE_UMASK = 0o077
"""The umask of a process with an embedded server: what it creates has mode 0700 or 0600."""


def make_private(folder: Path) -> None:
    """Create the folder and its missing parents with mode 0700. Existing folders keep owner and mode.

    Under root, the new folders belong to the account that runs the server, because it must enter them.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        admit_server(path)


def admit_server(folder: Path) -> None:
    """Under root, give a new folder to the account that runs the server."""
    if (account := account_for(folder)) is not None:
        os.chown(folder, account.uid, account.gid)
