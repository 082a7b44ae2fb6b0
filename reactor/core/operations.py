"""Why an operator's action leaves a row unchanged, for the commands and the web page."""

from typing import Final

WHY_UNCHANGED: Final = {
    "retry": "is not waiting, dead or cancelled",
    "cancel": "is not waiting, uploading or dead",
    "purge": "is not dead or cancelled: cancel it first",
    "fail": "is not pending or running, or does not exist",
}
"""By action. Completes "<row id> …"."""
