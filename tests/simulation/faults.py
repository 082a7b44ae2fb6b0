"""The faults of one run and their probabilities. Each seed draws its own mixture, so no fault always hides another."""

import random

from attrs import define, fields

_MIXED_IN = 0.5
"""Probability that a fault is part of a seed's mixture."""


@define(kw_only=True)
class Faults:
    """The probability of each fault, from 0 to 1. Comments, names and docstrings say when a fault can occur."""

    # a call to the database
    call_fails_before: float = 0.0
    """The connection breaks before the statement arrives."""
    call_fails_after: float = 0.0
    """The statement commits, then its answer is lost."""
    call_is_refused: float = 0.0
    """The server cancels the statement because of its timeout."""
    call_is_slow: float = 0.0
    crashes_after_claim: float = 0.0
    """At each claim: the server crashes within 0.3 s. The claim is lost if no later commit was flushed."""

    # a notification
    notification_lost: float = 0.0
    notification_doubled: float = 0.0
    notification_late: float = 0.0
    """The notification arrives up to 10 s late, so later notifications may overtake it."""
    notification_forged: float = 0.0
    listener_dies: float = 0.0
    """At each notification: the server terminates the listening connection instead of sending."""
    listener_refused: float = 0.0
    listener_silent: float = 0.0
    """The connection receives nothing and reports no error, as behind a middlebox or a pooler."""

    # the store and the spool
    store_refuses: float = 0.0
    store_denies: float = 0.0
    store_hangs: float = 0.0
    store_answer_lost: float = 0.0
    """The object is stored, then the connection is reset."""
    store_is_slow: float = 0.0
    file_stays: float = 0.0
    """At each removal of a spooled file: the removal fails."""

    # processes, servers and clocks: probabilities per second
    killed: float = 0.0
    frozen: float = 0.0
    restarted: float = 0.0
    server_restarted: float = 0.0
    store_down: float = 0.0
    credentials_expire: float = 0.0
    """The store refuses every put as if the credentials had expired."""
    clock_stepped: float = 0.0
    """The clock of the database's host jumps."""

    # the workload
    poison: float = 0.0
    """At each upload: the upload can't succeed."""
    locked: float = 0.0
    """At each upload: another session locks its row, its source or its user's usage for up to 40 s."""
    refused: float = 0.0
    """At each upload: a trigger of the app refuses some changes of the upload or its source."""
    operator_acts: float = 0.0
    """Per second: an operator retries, cancels or purges uploads, or fails a run.

    Also at each upload: the app completes the upload that it has queued.
    """

    def clear(self) -> None:
        """Set every probability to 0."""
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
    "listener_silent": 0.6,
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
    "credentials_expire": 0.02,
    "clock_stepped": 0.02,
    "poison": 0.2,
    "locked": 0.3,
    "refused": 0.2,
    "operator_acts": 0.1,
}


def mixed(rng: random.Random) -> Faults:
    """Draw a mixture. It has each fault with probability 0.5, at a random rate up to the fault's rate in _WORST."""
    return Faults(
        **{name: worst * rng.random() ** 2 if rng.random() < _MIXED_IN else 0.0 for name, worst in _WORST.items()}
    )
