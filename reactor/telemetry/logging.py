"""Log lines: text for people, JSON for machines, on stderr; dependencies' own logging is routed in.

What a line says is for whoever reads it to know: an exception that nobody foresaw is shown by its kind, its way through
the code and its first words without what they quote, for those may name a file, a key or a row's values.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

_TEXT = (
    "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}{extra[_fields]}"
    "{extra[_exception]}\n"
)
_INTERNAL = frozenset({"_fields", "_exception"})

_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|b'[^']*'|\w+://\S+|(?<![\w.])/[^\s:,)]+|\([^)]*\)=\([^)]*\)""")

_QUIET = {
    # each failed reconnection is said once, by us
    "psycopg.pool": logging.ERROR,
    # a retried request isn't news
    "botocore": logging.ERROR,
    "boto3": logging.ERROR,
    "urllib3": logging.ERROR,
    "uvicorn": logging.ERROR,
}


class _Routed(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(depth=6, exception=record.exc_info).log(level, "{}", record.getMessage())


def configure(level: str, style: str) -> None:
    """Log at `level` and above as 'text' or 'json'. Replaces whatever was set up before."""
    logger.remove()
    if style == "json":
        logger.add(_write_json, level=level, format="{message}", backtrace=False, diagnose=False)
    else:
        logger.add(sys.stderr, level=level, format=_text, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Routed()], level=logging.WARNING, force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def _text(record: "Record") -> str:
    extra = record["extra"]
    extra["_fields"] = "".join(f" {key}={value}" for key, value in extra.items() if key not in _INTERNAL)
    exception = record["exception"]
    extra["_exception"] = ""
    if exception is not None and exception.value is not None:
        extra["_exception"] = "".join(f"\n{line}" for line in told(exception.value))
    return _TEXT


def _write_json(message: "Message") -> None:
    record = message.record
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    exception = record["exception"]
    if exception is not None and exception.value is not None:
        line["exception"] = "\n".join(told(exception.value))
    sys.stderr.write(json.dumps(line, default=str) + "\n")


def told(error: BaseException) -> Iterator[str]:
    """Yield an exception as lines: its way through the code, its kind, its first words without what they quote."""
    if (before := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        yield from told(before)
        yield "and then:"
    yield "Traceback (most recent call last):"
    for frame in extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    words = str(error).partition("\n")[0]
    yield f"{type(error).__name__}: {_QUOTED.sub('…', words)}"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from told(inner)
