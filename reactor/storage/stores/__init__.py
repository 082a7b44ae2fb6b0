"""Object stores. `open_store` opens the store at REACTOR_STORE_URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from reactor.core.errors import ConfigInvalid
from reactor.storage.stores.base import ObjectStore
from reactor.storage.stores.local import LocalStore

_FORMS = "write file:///dir for a folder, or s3:// for the bucket that each row names"


def open_store(
    store_url: str, *, concurrency: int, addressing: str = "path", checksum: str = "sha256", sse: str | None = None
) -> ObjectStore:
    """Return the store at a URL, for up to `concurrency` concurrent puts. Sends and writes nothing.

    `addressing`, `checksum` and `sse` are the settings REACTOR_S3_*. Raises ConfigInvalid without the URL in its
    message, because a URL may contain a password.
    """
    try:
        url = urlsplit(store_url)
    except ValueError:
        raise ConfigInvalid(f"REACTOR_STORE_URL: it is no URL; {_FORMS}") from None
    if url.query or url.fragment:
        raise ConfigInvalid("REACTOR_STORE_URL: '?' and '#' have no meaning here; as part of a name, write %3F, %23")
    if url.scheme == "file":
        return LocalStore(_folder(url.netloc, unquote(url.path)))
    if url.scheme == "s3":
        if url.netloc or url.path.strip("/"):
            raise ConfigInvalid(
                "REACTOR_STORE_URL: write s3:// alone; rows name the bucket, and AWS_ENDPOINT_URL the server"
            )
        # only here, because importing boto3 takes 0.2 s and 40 MB, and a local store doesn't need it
        from reactor.storage.stores.s3 import S3Store  # noqa: PLC0415 - see above

        return S3Store(concurrency=concurrency, addressing=addressing, checksum=checksum, sse=sse)
    raise ConfigInvalid(f"REACTOR_STORE_URL: its scheme is neither file nor s3; {_FORMS}")


def store_folder(store_url: str) -> Path | None:
    """Return the folder of a file:// URL; None for other URLs. Raises ConfigInvalid."""
    url = urlsplit(store_url)
    return _folder(url.netloc, unquote(url.path)) if url.scheme == "file" else None


def _folder(host: str, path: str) -> Path:
    if host not in {"", "localhost"}:
        raise ConfigInvalid("REACTOR_STORE_URL: file:// needs three slashes, as in file:///var/lib/objects")
    if not path.startswith("/") or path.strip("/") == "" or "\0" in path:
        raise ConfigInvalid("REACTOR_STORE_URL: file:// needs the folder's full path, as in file:///var/lib/objects")
    return Path(path)
