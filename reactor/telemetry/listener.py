"""Calls an app's listener for each event. What the listener raises is logged, and doesn't end the reactor."""

from loguru import logger

from reactor.core.events import Emit, Event


def logged(listener: Emit) -> Emit:
    """Return a function that calls the listener, and logs an exception instead of raising it."""

    def emit(event: Event) -> None:
        try:
            listener(event)
        except Exception as error:  # noqa: BLE001  # an app's own code
            logger.opt(exception=error).error("the listener raised an exception for {}", type(event).__name__)

    return emit
