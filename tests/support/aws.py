"""AWS_* variables that point to a test's own S3 server and ignore the host's configuration."""

import os

import pytest


def environment(endpoint: str, *, access_key: str, secret_key: str) -> dict[str, str]:
    """Return the variables for this endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def use(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Set these variables, and unset all other AWS_* variables."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
