"""How long to wait before the next try. Given the randomness, it is a plain function."""

from attrs import field, frozen, validators

_DAY_S = 86_400.0


@frozen(kw_only=True)
class Backoff:
    """Exponential backoff with a ceiling and jitter on both sides."""

    base_s: float = field(validator=validators.gt(0))
    factor: float = field(validator=validators.ge(1))
    max_s: float = field(validator=validators.gt(0))
    jitter: float = field(validator=[validators.ge(0), validators.le(1)])
    """Share of the delay by which it may be shorter or longer."""

    def delay_s(self, retry: int, u: float, retry_after_s: float | None = None) -> float:
        """Return seconds to wait after failed try number `retry` (from 1), given 0 <= u < 1.

        min(max_s, base_s * factor ** (retry - 1)) * (1 + jitter * (2 * u - 1)). A longer `retry_after_s`, the
        store's own wish, wins, up to a day. The ceiling binds before the jitter, so that a thousand uploads which
        have reached it still spread.
        """
        try:
            grown_s = self.base_s * self.factor ** (retry - 1)
        except OverflowError:
            grown_s = self.max_s
        delay_s = min(self.max_s, grown_s) * (1 + self.jitter * (2 * u - 1))
        return max(delay_s, min(retry_after_s or 0.0, _DAY_S))
