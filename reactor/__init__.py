"""Event-driven Postgres LISTEN/NOTIFY reactor.

    async with reactor.ReactorClient(dsn) as client:
        await client.usage(user_id)

    anyio.run(reactor.Reactor(reactor.load(os.environ)).run)

A name's module is imported when the name is first used, so `import reactor` loads no other module, and a client needs
nothing of the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactor.app import Reactor
    from reactor.client.async_client import ReactorClient
    from reactor.client.interpretation import Interpretation
    from reactor.client.sync_client import SyncReactorClient
    from reactor.client.sync_interpretation import SyncInterpretation
    from reactor.configuration import load
    from reactor.core.errors import (
        ConfigInvalid,
        ContentMismatch,
        DatabaseFailure,
        DatabaseForbidden,
        DatabaseRefused,
        DatabaseUnavailable,
        FileTooLarge,
        InterpretationFailed,
        InterpretationHeartbeatLost,
        InterpretationInProgress,
        InterpretationQuotaExceeded,
        InterpretationTimeout,
        InvalidArgument,
        MigrationChanged,
        NotAllowed,
        NotFound,
        ReactorError,
        Refused,
        Rejected,
        SpoolFileMissing,
        SpoolPathForbidden,
        SpoolUnavailable,
        StoragePending,
        StorageQuotaExceeded,
        StorageRefused,
        StorageRejected,
        StorageUnavailable,
        StorageUploadFailed,
        Unavailable,
    )
    from reactor.core.settings import Settings
    from reactor.postgres.results import (
        PendingRetry,
        Reservation,
        StoredSource,
        Usage,
    )

__version__ = "0.3.0"

__all__ = [
    "ConfigInvalid",
    "ContentMismatch",
    "DatabaseFailure",
    "DatabaseForbidden",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "FileTooLarge",
    "Interpretation",
    "InterpretationFailed",
    "InterpretationHeartbeatLost",
    "InterpretationInProgress",
    "InterpretationQuotaExceeded",
    "InterpretationTimeout",
    "InvalidArgument",
    "MigrationChanged",
    "NotAllowed",
    "NotFound",
    "PendingRetry",
    "Reactor",
    "ReactorClient",
    "ReactorError",
    "Refused",
    "Rejected",
    "Reservation",
    "Settings",
    "SpoolFileMissing",
    "SpoolPathForbidden",
    "SpoolUnavailable",
    "StoragePending",
    "StorageQuotaExceeded",
    "StorageRefused",
    "StorageRejected",
    "StorageUnavailable",
    "StorageUploadFailed",
    "StoredSource",
    "SyncInterpretation",
    "SyncReactorClient",
    "Unavailable",
    "Usage",
    "__version__",
    "load",
]

_MODULE_OF = {
    "Interpretation": "reactor.client.interpretation",
    "PendingRetry": "reactor.postgres.results",
    "Reactor": "reactor.app",
    "ReactorClient": "reactor.client.async_client",
    "Reservation": "reactor.postgres.results",
    "Settings": "reactor.core.settings",
    "StoredSource": "reactor.postgres.results",
    "SyncInterpretation": "reactor.client.sync_interpretation",
    "SyncReactorClient": "reactor.client.sync_client",
    "Usage": "reactor.postgres.results",
    "load": "reactor.configuration",
}
"""All other names are exceptions, in reactor/core/errors.py."""

if not TYPE_CHECKING:  # a type checker must report a name that doesn't exist

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'reactor' has no attribute {name!r}")
        try:
            module = import_module(_MODULE_OF.get(name, "reactor.core.errors"))
        except ModuleNotFoundError as error:
            if name != "Reactor" or str(error.name).startswith("reactor."):
                raise
            raise ImportError(f"reactor.Reactor needs {error.name}: pip install 'pgreactor[server]'") from error
        globals()[name] = value = getattr(module, name)
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
