"""Checks of what other users and machines can reach: the token, the HTTP address, the modes of folders."""

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reactor.core.settings import Settings
from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem, warning
from reactor.storage.stores import store_folder

_DISTINCT_CHARS = 8
"""Minimum number of different characters of a token that isn't reported. A random one of 16 hex digits has 10."""

_TOKEN_FIX = "set REACTOR_HTTP_TOKEN to the output of `openssl rand -hex 24`"  # noqa: S105 - a command


def exposure_group(settings: Settings) -> CheckGroup:
    """Return the checks. They only read settings and the modes of folders."""
    fix = "check that the folders of REACTOR_SPOOL_DIR, REACTOR_SPOOLS and REACTOR_STORE_URL answer"
    return CheckGroup(
        [
            Check("http token", partial(_token, settings), _TOKEN_FIX),
            Check("http address", partial(_address, settings), "correct REACTOR_HTTP_HOST"),
            Check("folder modes", partial(_folders, settings), fix),
        ]
    )


def _token(settings: Settings) -> Iterator[Finding]:
    token = settings.http_token
    if token is None:
        yield ok("http token", "none is set: nothing can be changed over HTTP")
    elif len(set(token)) < _DISTINCT_CHARS:
        yield warning(
            "http token", f"it has only {len(set(token))} different characters, so it can be guessed", _TOKEN_FIX
        )
    else:
        yield ok("http token", f"{len(token)} characters")


def _address(settings: Settings) -> Iterator[Finding]:
    address = f"{settings.http_host}:{settings.http_port}"
    names = ", ".join(settings.http_hosts)
    if settings.is_private:
        yield ok("http address", f"{address}: only this machine can reach it")
    elif names:
        yield ok("http address", f"{address}: other machines need the token, and one of the names {names}")
    else:
        seen = f"{address}: other machines can reach it, and it has no TLS; they need the token"
        fix = (
            "put a TLS proxy in front and list its host name in REACTOR_HTTP_HOSTS, or set REACTOR_HTTP_HOST=127.0.0.1"
        )
        yield warning("http address", seen, fix)


def _folders(settings: Settings) -> Iterator[Finding]:
    folders = {f"the spool {name}": folder for name, folder in settings.spools.items()}
    if (store := store_folder(settings.store_url)) is not None:
        folders["the store"] = store
    is_closed = True
    for name, folder in folders.items():
        access = access_of_others(folder)
        fix = f"chmod o-rwx {folder}; the app and the reactor can share it as one user, or through a group"
        if "w" in access:
            is_closed = False
            yield problem("folder modes", f"every local user can replace or delete files in {name}, {folder}", fix)
        elif "r" in access:
            is_closed = False
            yield warning("folder modes", f"every local user can list the files in {name}, {folder}", fix)
    if is_closed:
        yield ok("folder modes", "other local users can't list spools and store")


def access_of_others(folder: Path) -> str:
    """Return which of "r" and "w" users have who are neither the folder's owner nor in its group; "" for no folder.

    In a folder with the sticky bit, they can't delete or replace the files of others, so "w" is missing.
    """
    folder = folder.resolve()
    if not folder.is_dir() or not all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents)):
        return ""
    mode = folder.stat().st_mode
    is_writable = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
    return ("r" if mode & stat.S_IROTH else "") + ("w" if is_writable else "")
