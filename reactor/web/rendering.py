"""Renders the templates. Every value from a row, an address or an error is untrusted text.

For every value that a template writes, the environment escapes HTML, replaces unprintable characters (terminal and
bidirectional controls, line ends), and cuts long text. Templates do not have to do this.
"""

from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reactor.core.counted import counted
from reactor.core.durations import duration_text
from reactor.core.fleet import reactor_names
from reactor.core.health import TIME_LEFT_LABELS, count_text
from reactor.core.printable import printable

_NOTHING: Final = "\N{EN DASH}"
_MAX_CHARS: Final = 400

PANELS: Final = ("state", "queue", "reaction", "wheel", "dead", "runs", "quotas", "reactors", "reconcile")
"""The sections of the live page, in order; panels/<name>.html renders each."""

STATIC_FILES: Final = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
"""Media type by file name."""


def safe_value(value: object) -> object:
    """Return a value that a template may write: printable text of at most 400 characters, a number, or Markup."""
    if value is None:
        return _NOTHING
    if isinstance(value, Markup | int | float):
        return value
    if isinstance(value, datetime):
        return utc_time(value)
    text = str(value)
    short = text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
    return printable(short)


def utc_time(value: datetime | str | None) -> str:
    """Return a time in UTC, to the second. A time that Python can't parse is not changed; None becomes a dash."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(safe_value(value))
    return _NOTHING if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(value: int | str | None) -> str:
    """Return a number of bytes in binary units, for people."""
    number = int(value or 0)
    power = min(4, max(0, number.bit_length() - 1) // 10)
    return f"{number:,} bytes" if power == 0 else f"{number / 1024**power:,.1f} {'KMGT'[power - 1]}iB"


def milliseconds(value_s: float | None) -> str:
    """Return a duration for people, in milliseconds if it is below one second. None becomes a dash."""
    return _NOTHING if value_s is None else f"{1000 * value_s:,.1f} ms" if value_s < 1 else duration_text(value_s)


@cache
def static(name: str) -> tuple[bytes, str]:
    """Return a static file's content and a hash of it."""
    content = files("reactor.web").joinpath("static", name).read_bytes()
    return content, sha256(content).hexdigest()[:12]


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("reactor.web"),
    autoescape=True,
    finalize=safe_value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    each.__name__: each for each in (count_text, counted, duration_text, utc_time, size, milliseconds)
}
_ENVIRONMENT.globals |= {"PANELS": PANELS, "TIME_LEFT_LABELS": TIME_LEFT_LABELS, "reactor_names": reactor_names}
_ENVIRONMENT.globals["version_of"] = lambda name: static(name)[1]


def warm() -> None:
    """Compile every template. Without this, the first page would wait 0.1 s for the compiler."""
    for name in _ENVIRONMENT.list_templates(extensions=["html"]):
        _ENVIRONMENT.get_template(name)


def render(template: str, **values: Any) -> str:
    """Return a rendered template."""
    return _ENVIRONMENT.get_template(template).render(**values)


def panels(values: dict[str, Any]) -> dict[str, str]:
    """Return the HTML of each live section, by name."""
    return {name: render(f"panels/{name}.html", **values) for name in PANELS}
