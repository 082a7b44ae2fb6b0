"""Environment variables and `reactor.toml` → Settings, or one line for everything that is wrong with them.

For each setting the first of these counts: REACTOR_<NAME> in the environment, <name> in the file, the
default. An empty value is an unset one. For the database there is more: after both, the DATABASE_URL that
many hosts set, then libpq's own PG* variables; if nothing names a server, the embedded one is used.

Nothing is guessed and nothing ignored: a name that isn't known is reported with the nearest that is. The
value of a secret, and a password inside a URL, is in no message. The messages are the point of this file, so
it reads its five kinds of value by hand: a structuring library's errors would have to be taken apart for each
of them.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from attrs import NOTHING, Attribute, fields, frozen
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from reactor.core.durations import parse_duration_s
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings, problems

_PREFIX: Final = "REACTOR_"
_NOT_OURS: Final = re.compile(
    r"REACTOR_(TEST_.*|SERVICE_(HOST|PORT).*|PORT_[0-9]+_.*|PORT=(tcp|udp|sctp)://.*)", re.DOTALL
)
"""name=value of variables with our prefix that aren't settings: those of the tests, and those that Kubernetes
puts into every container beside a service called "reactor"."""

_DEFAULT_FILE: Final = Path("reactor.toml")

_SECRET: Final = frozenset({"database_url", "listen_url", "http_token"})
_SERVER: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")
"""The libpq variables that say which server is meant; the others only say how to talk to it."""

_WORST_SHOWN: Final = 60
"""How many characters of a wrong value are shown."""


def load(environ: Mapping[str, str], config: Path | None) -> Settings:
    """Return the settings that `environ` and the TOML file `config` give.

    `config` None means `reactor.toml` in the working directory, if it is there. Relative folders start at the
    working directory. Raises ConfigInvalid with one line for each variable or key that is wrong or unknown.
    """
    found: list[str] = []
    path = config if config is not None else _DEFAULT_FILE
    table: dict[str, Any] = {}
    try:
        if config is not None or _DEFAULT_FILE.exists():
            table = _table(path)
    except ValueError as wrong:
        found.append(str(wrong))
    source = _Source(environ={name: text.strip() for name, text in environ.items()}, table=table, path=path)

    found += source.unknown()
    values: dict[str, Any] = {}
    unread: set[str] = set()
    for key, read in _READERS.items():
        try:
            if (value := source.value(key)) is not None:
                values[key] = read(value)
        except ValueError as wrong:
            found.append(f"{source.named(key)} must be {wrong}{source.shown(key)}")
            unread.add(key)

    complete = _fields(values)
    read_well = {name: value for name, value in complete.items() if _key(name) not in unread}
    found += problems(read_well, lambda name: source.named(_key(name)), lambda name: source.shown(_key(name)))
    if found:
        raise ConfigInvalid(*found)
    return Settings(**complete)


def _key(name: str) -> str:
    """Return the public name of a field, in the file's spelling: its unit is written with the value."""
    return name.removesuffix("_s")


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of Settings from `values` by public name, with the defaults of what is missing."""
    given: dict[str, Any] = {
        attribute.name: values.get(_key(attribute.name), attribute.default) for attribute in fields(Settings)
    }
    data_dir: Path = given["data_dir"].absolute()
    if given["store_url"] is NOTHING:
        given["store_url"] = (data_dir / "store").as_uri()
    spools = {"default": values.get("spool_dir", data_dir / "spool")} | values.get("spools", {})
    return given | {"data_dir": data_dir, "spools": spools}


def _table(path: Path) -> dict[str, Any]:
    """Return what is in a TOML file; raises ValueError, in one line, if that can't be had."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise ValueError(f"{path} can't be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise ValueError(f"{path} isn't UTF-8 text") from failure
    except tomllib.TOMLDecodeError as failure:
        raise ValueError(f"{path} isn't valid TOML: {failure}") from failure


@frozen(kw_only=True)
class _Source:
    """Where values come from: the environment first, then the file."""

    environ: Mapping[str, str]
    table: Mapping[str, Any]
    path: Path

    def value(self, key: str) -> Any:
        """Return what was written for `key`: text from the environment, anything from the file; or None."""
        value = self.environ.get(_variable(key)) or self.table.get(key)
        if key == "database_url" and value in (None, ""):
            value = self.environ.get("DATABASE_URL") or None
            if value is None and any(self.environ.get(name) for name in _SERVER):
                return ""  # the empty connection string: libpq reads the rest from its variables
        elif value == "":
            return None
        return value

    def named(self, key: str) -> str:
        """Return what the reader must change to change `key`: the variable, or the key and its file."""
        if self.environ.get(_variable(key)):
            return _variable(key)
        if key in self.table:
            return f"{key} in {self.path}"
        if key == "database_url" and self.environ.get("DATABASE_URL"):
            return "DATABASE_URL"
        return _variable(key)

    def shown(self, key: str) -> str:
        """Return ", not …" with what was written for `key`; nothing for a secret or a default."""
        value = self.value(key)
        if value is None or key in _SECRET:
            return ""
        text = re.sub(r"//\S*@", "//***@", str(value))
        text = re.sub(r"(?i)(password|secret|token|key)(\s*=\s*)\S+", r"\1\2***", text)
        return f", not {text if len(text) <= _WORST_SHOWN else text[:_WORST_SHOWN] + '…'!r}"

    def unknown(self) -> Iterator[str]:
        """Yield a line for each variable with our prefix, and each key of the file, that is no setting."""
        known = {_variable(key) for key in _READERS}
        for variable, text in sorted(self.environ.items()):
            ours = variable.startswith(_PREFIX) and not _NOT_OURS.fullmatch(f"{variable}={text}")
            if ours and text and variable not in known:
                yield f"{variable} is not a setting: {_advice(variable, _variable)}"
        for key in self.table:
            if key not in _READERS:
                yield f"{key} in {self.path} is not a setting: {_advice(key, str)}"


def _variable(key: str) -> str:
    return _PREFIX + key.upper()


def _advice(key: str, spelled: Callable[[str], str]) -> str:
    near = get_close_matches(key.lower().removeprefix(_PREFIX.lower()), _READERS, n=1)
    return f"did you mean {spelled(near[0])}?" if near else "remove it"


# Readers take what was written, text or a TOML value, and raise ValueError with what completes "must be …".


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    raise ValueError("text in quotes")


def _conninfo(value: Any) -> str:
    text = _text(value)
    try:
        conninfo_to_dict(text)
    except ProgrammingError:
        # Without its cause: libpq quotes the part it didn't understand, which may be the password.
        raise ValueError("a postgresql:// URL, or key=value pairs as libpq reads them") from None
    return text


def _folder(value: Any) -> Path:
    return Path(_text(value)).absolute()


def _duration_s(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return parse_duration_s(str(value))
    except ValueError:
        pass
    raise ValueError("a duration like 30s, 0.5s, 5m, 1h30m, or plain seconds")


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    raise ValueError("a whole number")


def _number(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 10**18 else float("inf")
    raise ValueError("a number")


def _spools(value: Any) -> dict[str, Path]:
    """Read `name=/folder,other=/folder`, or the file's table [spools]."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = [(name.strip(), folder.strip()) for name, _, folder in pairs]
    elif isinstance(value, dict):
        value = list(value.items())
    else:
        value = [("", value)]
    folders = {name: Path(folder).absolute() for name, folder in value if isinstance(folder, str) and folder}
    if len(folders) < len(value) or "default" in folders or "" in folders:
        raise ValueError("name=/folder pairs with commas between, names different and none default (spool_dir)")
    return folders


def _upper(value: Any) -> str:
    return _text(value).upper()


def _lower(value: Any) -> str:
    return _text(value).lower()


def _reader(attribute: "Attribute[Any]") -> Callable[[Any], Any]:
    if attribute.name.endswith("_s"):
        return _duration_s
    by_type: dict[Any, Callable[[Any], Any]] = {int: _whole, float: _number, Path: _folder}
    return by_type.get(attribute.type, _text)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **{_key(attribute.name): _reader(attribute) for attribute in fields(Settings)},
    "database_url": _conninfo,
    "listen_url": _conninfo,
    "spool_dir": _folder,
    "spools": _spools,
    "log_level": _upper,
    "log_format": _lower,
}
"""How each setting is read, by its public name."""
