"""Templates, and what keeps them safe: whatever comes out of a row, an address or an error is hostile text.

It is escaped, made of printable characters only (no terminal's or bidirectional controls, no line ends) and cut; and so
is every value that a template writes, not those alone that somebody has thought of.
"""

from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reactor.core.health import TIMES_LEFT, about, span

_NOTHING: Final = "\N{EN DASH}"
_LONGEST: Final = 400
"""How many characters of any one value are shown."""

PANELS: Final = ("state", "queue", "reaction", "wheel", "dead", "runs", "quotas", "reactors", "reconcile")
"""The sections of the live page, in order; each is drawn by panels/<name>.html."""

STATIC: Final = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


def clean(value: object) -> object:
    """Return a value as a template may write it."""
    if value is None:
        return _NOTHING
    if isinstance(value, Markup | int | float):
        return value
    if isinstance(value, datetime):
        return moment(value)
    text = str(value)
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in short)


def moment(value: datetime | str | None) -> str:
    """Return a time in UTC, to the second; as it is where Python's calendar lacks it."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(clean(value))
    return _NOTHING if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(value: int | str | None) -> str:
    """Return a number of bytes for people."""
    figure = float(value or 0)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if figure < 1024:  # noqa: PLR2004  # binary units
            return f"{figure:,.0f} {unit}" if unit == "bytes" else f"{figure:,.1f} {unit}"
        figure /= 1024
    return f"{figure:,.1f} TiB"


def milliseconds(value: float | None) -> str:
    """Return seconds as milliseconds; a dash where there is no figure."""
    return _NOTHING if value is None else f"{1000 * value:,.1f} ms" if value < 1 else span(value)


@cache
def static(name: str) -> tuple[bytes, str]:
    """Return a static file, and a word that changes with it."""
    content = files("reactor.web").joinpath("static", name).read_bytes()
    return content, sha256(content).hexdigest()[:12]


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("reactor.web"),
        autoescape=True,
        finalize=clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"about": about, "span": span, "moment": moment, "size": size, "ms": milliseconds}
    made.globals["version_of"] = lambda name: static(name)[1]
    made.globals |= {"PANELS": PANELS, "TIMES_LEFT": TIMES_LEFT}
    return made


_TEMPLATES: Final = _environment()


def warm() -> None:
    """Compile every template, so that the first page needn't wait for it. Takes a tenth of a second."""
    for name in _TEMPLATES.list_templates(extensions=["html"]):
        _TEMPLATES.get_template(name)


def render(template: str, **values: Any) -> str:
    """Draw a template."""
    return _TEMPLATES.get_template(template).render(**values)


def panels(view: dict[str, Any]) -> dict[str, str]:
    """Draw the live sections, by name."""
    return {name: render(f"panels/{name}.html", **view) for name in PANELS}
