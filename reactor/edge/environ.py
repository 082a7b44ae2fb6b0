"""provisional"""
from collections.abc import Mapping
from pathlib import Path
from reactor.core.settings import Settings
from reactor.core.durations import parse_duration_s
def load(environ: Mapping[str,str], config: Path|None=None) -> Settings:
    d=Path(environ.get("REACTOR_DATA_DIR","reactor-data")).absolute()
    kw={}
    for k in ("RETRY_BASE","LEASE","RECONCILE_INTERVAL","SHUTDOWN_GRACE","HEARTBEAT_TIMEOUT"):
        if v:=environ.get("REACTOR_"+k): kw[k.lower()+"_s"]=parse_duration_s(v)
    return Settings(database_url=environ.get("REACTOR_DATABASE_URL"), store_url=environ.get("REACTOR_STORE_URL",(d/"store").as_uri()), spools={"default": Path(environ.get("REACTOR_SPOOL_DIR", d/"spool"))}, http_port=int(environ.get("REACTOR_HTTP_PORT","8321")), listen_url=environ.get("REACTOR_LISTEN_URL"), data_dir=d, **kw)
