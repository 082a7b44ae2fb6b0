"""The cases by name, in the order in which they run. Each returns the variant that the others' ratios are to."""

from collections.abc import Callable

from .drain import drain, drain_to_stores
from .idle import idle
from .lateness import lateness
from .quotas import quotas
from .reaction import reaction
from .report import Report
from .scale_out import scale_out
from .stage import Stage
from .start import start
from .tax import app_tax, heartbeat_tax
from .timers import timers

CASES: dict[str, Callable[[Stage, Report, int], str | None]] = {
    "reaction": reaction,
    "drain": drain,
    "stores": drain_to_stores,
    "lateness": lateness,
    "wheel": timers,
    "heartbeats": heartbeat_tax,
    "app": app_tax,
    "quotas": quotas,
    "idle": idle,
    "start": start,
    "scale-out": scale_out,
}

WITH_PEERS = {"reaction", "drain", "lateness"}
