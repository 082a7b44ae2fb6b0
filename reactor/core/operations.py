"""What an operator's actions answer, for the commands and the page alike."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

WHY_UNCHANGED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "retry": "is not waiting, dead or cancelled",
        "cancel": "is not waiting, uploading or dead",
        "purge": "is not dead or cancelled: cancel it first",
        "fail": "is not pending or running, or does not exist",
    }
)
"""By action: why it did not change a row. Completes "<row id> …"."""
