"""Reads the settings from environment variables and `reactor.toml`.

The value of a setting is REACTOR_<NAME> in the environment, else <name> in the file, else the default. An empty value
means "not set". cattrs converts each value to the type of its field. reactor/core/settings.py checks converted values.
One exception reports all problems, one line each, without any secret.

If database_url isn't set, DATABASE_URL and then libpq's PG* variables are read. If these name no server either, the
embedded server is used.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from attrs import NOTHING, fields
from cattrs import Converter
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from reactor.core.connection_string import RULE, misreads_password
from reactor.core.durations import parse_duration_s
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import ConnectionString, LowerCase, Seconds, Settings, UpperCase, problems

_PREFIX: Final = "REACTOR_"
_NOT_OURS: Final = re.compile(
    r"REACTOR_(TEST_.*|SERVICE_(HOST|PORT).*|PORT_[0-9]+_.*|PORT=(tcp|udp|sctp)://.*)", re.DOTALL
)
"""Matches name=value of variables with the prefix that aren't settings: variables of the tests, and variables that
Kubernetes sets in every container if a service has the name "reactor"."""

_DEFAULT_FILE: Final = Path("reactor.toml")

_SECRET: Final = frozenset({"database_url", "listen_url", "http_token"})
_SERVER: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")
"""The libpq variables that name a server. Other PG* variables only change how libpq connects."""

_SHOWN_CHARS: Final = 60
"""Maximum number of characters of a wrong value in a message."""


def _key(name: str) -> str:
    """Return the public name of a field: the key in the file, without the unit `_s`."""
    return name.removesuffix("_s")


NAMES: Final[Mapping[str, Any]] = MappingProxyType(
    {_key(attribute.name): attribute.type for attribute in fields(Settings)} | {"spool_dir": Path}
)
"""Maps the public name of each setting to the type of the setting."""


def load(environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """Return the settings from `environ` and the TOML file `config`.

    If `config` is None, reads `reactor.toml` in the working directory if that file exists. Relative folders are
    relative to the working directory. Raises ConfigInvalid with one line for each wrong or unknown variable or key.
    """
    found: list[str] = []
    environ = {name: text.strip() for name, text in environ.items()}
    path = config if config is not None else _DEFAULT_FILE
    table: dict[str, Any] = {}
    try:
        if config is not None or _DEFAULT_FILE.exists():
            table = _table(path)
    except ValueError as wrong:
        found.append(str(wrong))
    given = dict(_given(environ, table, path))

    def named(name: str) -> str:
        return given[_key(name)][0] if _key(name) in given else _variable(_key(name))

    def shown(name: str) -> str:
        key = _key(name)
        return "" if key in _SECRET or key not in given else f", not {_redacted(str(given[key][1]))!r}"

    found += _unknown(environ, table, path)
    values: dict[str, Any] = {}
    for key, (name, raw) in given.items():
        try:
            values[key] = _CONVERTER.structure(raw, NAMES[key])
        except ValueError as wrong:
            found.append(f"{name} must be {wrong}{shown(key)}")

    complete = _fields(values)
    read = {name: value for name, value in complete.items() if _key(name) in values or _key(name) not in given}
    found += problems(read, named, shown)
    if found:
        raise ConfigInvalid(*found)
    return Settings(**complete)


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the value of each field of Settings: from `values`, which has public names, or the default."""
    given: dict[str, Any] = {
        attribute.name: values.get(_key(attribute.name), attribute.default) for attribute in fields(Settings)
    }
    data_dir: Path = given["data_dir"].absolute()
    if given["store_url"] is NOTHING:
        given["store_url"] = (data_dir / "store").as_uri()
    spools = {"default": values.get("spool_dir", data_dir / "spool")} | values.get("spools", {})
    return given | {"data_dir": data_dir, "spools": spools}


def _table(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises ValueError with one line if the file can't be read or parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise ValueError(f"{path} can't be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise ValueError(f"{path} isn't UTF-8 text") from failure
    except tomllib.TOMLDecodeError as failure:
        raise ValueError(f"{path} isn't valid TOML: {failure}") from failure


def _given(environ: Mapping[str, str], table: Mapping[str, Any], path: Path) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield (public name, (name of its variable or key, raw value)) for each setting that is set."""
    for key in NAMES:
        if text := environ.get(_variable(key)):
            yield key, (_variable(key), text)
        elif table.get(key, "") != "":
            yield key, (f"{key} in {path}", table[key])
        elif key == "database_url" and (text := environ.get("DATABASE_URL")):
            yield key, ("DATABASE_URL", text)
        elif key == "database_url" and any(environ.get(name) for name in _SERVER):
            yield key, (_variable(key), "")  # for an empty connection string, libpq reads the PG* variables


def _unknown(environ: Mapping[str, str], table: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Yield a line for each variable with the prefix, and each key of the file, that is not a setting."""
    known = {_variable(key) for key in NAMES}
    for variable, text in sorted(environ.items()):
        ours = variable.startswith(_PREFIX) and not _NOT_OURS.fullmatch(f"{variable}={text}")
        if ours and text and variable not in known:
            yield f"{variable} is not a setting: {_advice(variable, _variable)}"
    for key in table:
        if key not in NAMES:
            yield f"{key} in {path} is not a setting: {_advice(key, str)}"


def _variable(key: str) -> str:
    return _PREFIX + key.upper()


def _advice(key: str, spelled: Callable[[str], str]) -> str:
    near = get_close_matches(key.lower().removeprefix(_PREFIX.lower()), NAMES, n=1)
    return f"did you mean {spelled(near[0])}?" if near else "remove it"


def _redacted(text: str) -> str:
    """Return the beginning of a value, without passwords."""
    text = re.sub(r"//\S*@", "//***@", text)
    text = re.sub(r"(?i)(password|secret|token|key)(\s*=\s*)\S+", r"\1\2***", text)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    raise ValueError("text in quotes")


def _connection_string(value: Any) -> str:
    text = _text(value)
    try:
        parts = conninfo_to_dict(text)
    except (ProgrammingError, UnicodeError):
        # `from None`, because libpq's message quotes the part that it can't parse, which may be the password
        raise ValueError("a postgresql:// URL, or key=value pairs as libpq reads them") from None
    if misreads_password(text, parts):
        raise ValueError(RULE)
    return text


def _folder(value: Any) -> Path:
    return Path(_text(value)).absolute()


def _seconds(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return parse_duration_s(str(value))
    except ValueError:
        pass
    raise ValueError("a duration like 30s, 0.5s, 5m, 1h30m, or plain seconds")


def _whole_number(value: Any) -> int:
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
    """Return the spools in `name=/folder,other=/folder`, or in the table [spools] of the file."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = [(name.strip(), folder.strip()) for name, _, folder in pairs]
    elif isinstance(value, dict):
        value = list(value.items())
    else:
        value = [("", value)]
    folders = {name: Path(folder).absolute() for name, folder in value if isinstance(folder, str) and folder}
    if len(folders) < len(value) or "default" in folders or "" in folders:
        raise ValueError("name=/folder pairs with commas between, each name once, without default (that is spool_dir)")
    return folders


def _host_names(value: Any) -> tuple[str, ...]:
    """Return the names in `name,other`, or in a list of the file."""
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(name.strip().lower().strip("[]").rstrip(".") for name in names if name.strip())
    raise ValueError("host names with commas between")


_CONVERTER: Final = Converter()
"""Converts a raw value: text of a variable, or a TOML value. The text of a ValueError completes "must be …"."""


def _register(type_: Any, read: Callable[[Any], Any]) -> None:
    if isinstance(type_, type):
        _CONVERTER.register_structure_hook(type_, lambda value, _: read(value))
    else:  # Annotated and generic types
        _CONVERTER.register_structure_hook_func(lambda candidate: candidate == type_, lambda value, _: read(value))


_register(str, _text)
_register(UpperCase, lambda value: _text(value).upper())
_register(LowerCase, lambda value: _text(value).lower())
_register(ConnectionString, _connection_string)
_register(Path, _folder)
_register(Seconds, _seconds)
_register(int, _whole_number)
_register(float, _number)
_register(Mapping[str, Path], _spools)
_register(Sequence[str], _host_names)
