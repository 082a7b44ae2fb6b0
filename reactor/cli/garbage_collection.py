"""Python's garbage collector, tuned for a process that handles uploads."""

import gc

_THRESHOLDS = (10_000, 50, 50)
"""Allocations before a collection of the youngest generation, then collections before each older one.

Python's defaults are 700, 10 and 10."""


def tune_garbage_collector() -> None:
    """Exclude all present objects from garbage collection, and collect less often from now on.

    Objects of the start live as long as the process, and objects of an upload are freed by reference counting, so
    collections find almost nothing. With the defaults they take a tenth of the time that uploads take.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
