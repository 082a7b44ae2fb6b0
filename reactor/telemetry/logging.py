"""Writes log lines to stderr, as text or JSON. Includes the records of the standard library's logging.

The log line of an unexpected exception has its type, its frames and the first line of its message. Quoted parts of the
message are removed, because they may contain a path, a key or a row's values. A line as text has no unprintable
character, because a terminal would execute escape sequences in a server's message.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from time import monotonic
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from loguru import logger

from reactor.core.causes import causes
from reactor.core.printable import printable

if TYPE_CHECKING:
    from loguru import Message, Record

_TEXT = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <7}</level> {extra[_message]}{extra[_tail]}\n"

_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|b'[^']*'|\w+://\S+|(?<![\w.])/[^\s:,)]+|\([^)]*\)=\([^)]*\)""")

_QUIET = ("psycopg.pool", "botocore", "boto3", "urllib3", "uvicorn")
"""Libraries of which only errors are logged, because they log each reconnection and each repeated request."""

_ROUTED_PER_MINUTE = 30
"""Maximum number of lines of one library in a minute. asyncio logs a traceback for each error of a connection."""


class _Routed(logging.Handler):
    """Passes records of the standard library's logging to loguru, up to _ROUTED_PER_MINUTE of each logger."""

    def __init__(self) -> None:
        super().__init__()
        self._minutes: dict[str, tuple[float, int]] = {}
        """For each logger, when its minute began, and how many records it has had since then."""

    def emit(self, record: logging.LogRecord) -> None:
        began_at, count = self._minutes.get(record.name, (0.0, 0))
        if count == 0 or monotonic() - began_at >= 60:  # noqa: PLR2004 - a minute
            began_at, count = monotonic(), 0
        self._minutes[record.name] = (began_at, count + 1)
        if count == _ROUTED_PER_MINUTE:
            logger.warning("{} logs more than {} lines a minute: the others are dropped", record.name, count)
        if count >= _ROUTED_PER_MINUTE:
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(depth=6, exception=record.exc_info).log(level, "{}", record.getMessage())


def configure(level: str, style: str) -> None:
    """Log lines of `level` and above in `style`, 'text' or 'json'. Replaces an earlier configuration."""
    logger.enable("reactor")
    logger.remove()
    if style == "json":
        logger.add(_write_json, level=level, format="{message}", backtrace=False, diagnose=False)
    else:
        logger.add(sys.stderr, level=level, format=_text, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Routed()], level=logging.WARNING, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


def _text(record: "Record") -> str:
    fields = "".join(f" {key}={printable(value)}" for key, value in record["extra"].items() if not key.startswith("_"))
    lines = "".join(f"\n{printable(line)}" for line in _lines_of(record))
    record["extra"] |= {"_message": printable(record["message"]), "_tail": fields + lines}
    return _TEXT


def _write_json(message: "Message") -> None:
    record = message.record
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    if exception := "\n".join(_lines_of(record)):
        line["exception"] = exception
    sys.stderr.write(json.dumps(line, default=str) + "\n")


def _lines_of(record: "Record") -> Iterator[str]:
    exception = record["exception"]
    if exception is not None and exception.value is not None:
        yield from exception_lines(exception.value)


def exception_lines(error: BaseException) -> Iterator[str]:
    """Yield an exception as lines: causes, frames, type, and the first line of the message without quoted parts."""
    for number, cause in enumerate(reversed(list(causes(error, with_suppressed=False)))):
        if number:
            yield "which led to:"
        yield from _lines_of_one(cause)


def _lines_of_one(error: BaseException) -> Iterator[str]:
    yield "Traceback (most recent call last):"
    for frame in extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    message = str(error).partition("\n")[0]
    yield f"{type(error).__name__}: {_QUOTED.sub('…', message)}"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from exception_lines(inner)
