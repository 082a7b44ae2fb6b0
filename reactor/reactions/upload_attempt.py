"""One attempt to store one upload."""

from attrs import define, field

from reactor.core.trace_context import Trail
from reactor.postgres.upload_answers import Upload
from reactor.reactions.base import Attempt
from reactor.storage.spool import Identity


@define(kw_only=True, eq=False)
class UploadAttempt(Attempt):
    """One attempt to store one upload. `result` is the object's URL and the identity of the spooled file."""

    upload: Upload
    trail: Trail
    renews_credentials: bool = field(default=False, init=False)
    """True for a probe of a place that refuses everybody: the store reads its credentials again before the put."""

    stored_file: Identity | None = field(default=None, init=False)
    """The spooled file to remove. Set when the upload is settled as stored; None before."""
