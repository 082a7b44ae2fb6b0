"""Events of the circuit breaker of a store."""

from reactor.core.breakers import OpenBreaker
from reactor.core.errors import StorageUnavailable
from reactor.core.events import BreakerMoved
from reactor.core.refusal import Guard, Place


def breaker_opened(store: str) -> BreakerMoved:
    """Return the event that this store's breaker has opened, because the store answers 503."""
    error, place = StorageUnavailable("503 SlowDown", http_status=503), Place(Guard.STORE, store)
    opened = OpenBreaker(place=place, refusal=error.refusal, code=error.code, message=str(error))
    return BreakerMoved(place=place, opened=opened)


def breaker_closed(store: str) -> BreakerMoved:
    """Return the event that this store's breaker has closed."""
    return BreakerMoved(place=Place(Guard.STORE, store))
