"""Reports events as log lines, metrics and spans."""

from loguru import logger

# A library logs nothing until its app asks for it: loguru's default sink would print every line of an embedded Reactor.
# An app asks with loguru.logger.enable("reactor"), possibly before this import; `reactor run` asks in logging.py.
if not any(name == "reactor." for name, _ in logger._core.activation_list):  # type: ignore[attr-defined]  # noqa: SLF001
    logger.disable("reactor")
