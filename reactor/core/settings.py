"""provisional"""
from collections.abc import Mapping
from pathlib import Path
from attrs import field, frozen
@frozen(kw_only=True)
class Settings:
    database_url: str | None = field(default=None, repr=False)
    listen_url: str | None = field(default=None, repr=False)
    store_url: str
    spools: Mapping[str, Path]
    upload_concurrency: int = 16
    uploads_per_user: int = 8
    retry_base_s: float = 30.0
    retry_factor: float = 2.0
    retry_max_s: float = 600.0
    retry_jitter: float = 0.1
    attempt_timeout_s: float = 300.0
    lease_s: float = 30.0
    heartbeat_timeout_s: float = 60.0
    reconcile_interval_s: float = 300.0
    wheel_horizon_s: float = 900.0
    shutdown_grace_s: float = 30.0
    http_host: str = "127.0.0.1"
    http_port: int = 8321
    http_token: str | None = field(default=None, repr=False)
    log_level: str = "INFO"
    log_format: str = "text"
    trace_url: str | None = None
    data_dir: Path = Path("reactor-data")
