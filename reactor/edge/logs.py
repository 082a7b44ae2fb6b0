"""Log lines: text for people, JSON for machines, on stderr; dependencies' own logging is routed in."""

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

_TEXT = (
    "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}{extra[_fields]}\n{exception}"
)


class _Routed(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(depth=6, exception=record.exc_info).log(level, "{}", record.getMessage())


def configure(level: str, style: str) -> None:
    """Log at `level` and above as 'text' or 'json'. Replaces whatever was set up before."""
    logger.remove()
    if style == "json":
        logger.add(_write_json, level=level, format="{message}", backtrace=False, diagnose=False)
    else:
        logger.add(sys.stderr, level=level, format=_text, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Routed()], level=logging.WARNING, force=True)
    # each failed reconnection is said once, by us; a retried request isn't news
    for name in ("psycopg.pool", "botocore", "urllib3", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _text(record: "Record") -> str:
    fields = "".join(f" {key}={value}" for key, value in record["extra"].items() if key != "_fields")
    record["extra"]["_fields"] = fields
    return _TEXT


def _write_json(message: "Message") -> None:
    record = message.record
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    if record["exception"] is not None:
        line["exception"] = str(record["exception"].value)
    sys.stderr.write(json.dumps(line, default=str) + "\n")
