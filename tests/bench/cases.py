"""The cases by name, in the order in which they run.

A case returns its base variant: the table shows the ratio of each figure to the base's figure. If a case returns None,
the table shows no ratios.
"""

from collections.abc import Callable

from .drain import drain, drain_to_stores
from .idle import idle
from .lateness import lateness
from .quotas import quotas
from .reaction import reaction
from .report import Report
from .scale_out import scale_out
from .server import BenchServer
from .start import start
from .timers import timers
from .trigger_cost import app_tax, heartbeat_tax

CASES: dict[str, Callable[[BenchServer, Report, int], str | None]] = {
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
