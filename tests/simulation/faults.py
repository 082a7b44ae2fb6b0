"""What may go wrong in one run, and how often: a different mixture for each seed, so that no fault hides another."""

import random

from attrs import define, fields

_MIXED_IN = 0.5
"""How likely a fault is to be part of a seed's mixture."""


@define(kw_only=True)
class Faults:
    """Chances, 0 to 1, each at its own point."""

    # a call to the database
    call_fails_before: float = 0.0
    """The connection dies before the statement arrives."""
    call_fails_after: float = 0.0
    """The statement has committed, and its answer is lost."""
    call_is_refused: float = 0.0
    """The server gives up on the statement: a timeout, or no memory."""
    call_is_slow: float = 0.0
    crashes_after_claim: float = 0.0
    """At any claim: within a moment the server crashes, and forgets it unless a later commit has made it durable."""

    # a notification
    notification_lost: float = 0.0
    notification_doubled: float = 0.0
    notification_late: float = 0.0
    """It comes seconds later, and so behind others."""
    notification_forged: float = 0.0
    listener_dies: float = 0.0
    """At any notification."""
    listener_refused: float = 0.0
    listener_deaf: float = 0.0
    """A connection that hears nothing, without an error: a middlebox, or a pooler."""

    # the store and the spool
    store_refuses: float = 0.0
    store_denies: float = 0.0
    store_hangs: float = 0.0
    store_answer_lost: float = 0.0
    """The object is stored, and the connection reset."""
    store_is_slow: float = 0.0
    file_stays: float = 0.0
    """A spooled file that can't be removed."""

    # processes and clocks: chances in each second
    killed: float = 0.0
    frozen: float = 0.0
    restarted: float = 0.0
    server_restarted: float = 0.0
    store_down: float = 0.0
    clock_stepped: float = 0.0
    """The database's host sets its clock."""

    # people and programs: how likely each thing of theirs is to be odd
    poison: float = 0.0
    """An upload that can't succeed."""
    meddled: float = 0.0
    """In each second an operator retries, cancels, purges or fails something."""

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        for attribute in fields(Faults):
            setattr(self, attribute.name, 0.0)


_WORST = {
    "call_fails_before": 0.2,
    "call_fails_after": 0.2,
    "call_is_refused": 0.1,
    "call_is_slow": 0.1,
    "crashes_after_claim": 0.05,
    "notification_lost": 0.9,
    "notification_doubled": 0.5,
    "notification_late": 0.5,
    "notification_forged": 0.3,
    "listener_dies": 0.1,
    "listener_refused": 0.5,
    "listener_deaf": 0.6,
    "store_refuses": 0.5,
    "store_denies": 0.1,
    "store_hangs": 0.2,
    "store_answer_lost": 0.3,
    "store_is_slow": 0.3,
    "file_stays": 0.3,
    "killed": 0.03,
    "frozen": 0.03,
    "restarted": 0.03,
    "server_restarted": 0.03,
    "store_down": 0.02,
    "clock_stepped": 0.02,
    "poison": 0.2,
    "meddled": 0.1,
}


def mixed(rng: random.Random) -> Faults:
    """Draw a mixture: each fault in half of the seeds, from hardly ever to as often as work can still be done."""
    return Faults(
        **{name: worst * rng.random() ** 2 if rng.random() < _MIXED_IN else 0.0 for name, worst in _WORST.items()}
    )
