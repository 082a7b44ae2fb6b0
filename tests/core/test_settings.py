"""The defaults of the settings follow the rules. A value that breaks a rule is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
from attrs import fields

from reactor.core.backoff import Backoff
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings, problems


def settings(**changes: Any) -> Settings:
    return Settings(**({"store_url": "s3://", "spools": {"default": Path("/spool")}} | changes))


def test_the_defaults_follow_the_rules() -> None:
    assert settings().upload_concurrency == 16


def test_the_retry_defaults_are_valid_for_a_backoff() -> None:
    made = settings()

    assert Backoff(made.retry_base_s, made.retry_factor, made.retry_max_s, made.retry_jitter).delay_s(3, u=0.5) == 120


@pytest.mark.parametrize(
    "changes",
    [
        {"store_url": "s3://bucket"},
        {"store_url": "file://relative"},
        {"store_url": "file:///"},
        {"store_url": "/var/objects"},
        {"s3_addressing": "dns"},
        {"s3_checksum": "md5"},
        {"s3_sse": ""},
        {"s3_sse": "aes256"},
        {"s3_sse": "AES256:key"},
        {"s3_sse": "aws:kms:"},
        {"s3_sse": "aws:kms:a key"},
        {"s3_sse": "aws:kms:key\n"},
        {"spools": {}},
        {"spools": {"other": Path("/spool")}},
        {"spools": {"default": Path("relative")}},
        {"spools": {"default": Path("/spool"), "a b": Path("/b")}},
        {"upload_concurrency": 0},
        {"upload_concurrency": 1025},
        {"uploads_per_user": 0},
        {"retry_base_s": 0},
        {"retry_base_s": math.nan},
        {"retry_factor": 0.9},
        {"retry_max_s": math.inf},
        {"retry_jitter": 1.0},
        {"attempt_timeout_s": -1},
        {"lease_s": 0.5},
        {"heartbeat_timeout_s": 0},
        {"reconcile_interval_s": 0},
        {"wheel_horizon_s": 400 * 86_400},
        {"shutdown_grace_s": -1},
        {"http_host": ""},
        {"http_port": 65_536},
        {"http_port": -1},
        {"http_token": "two words"},
        {"http_token": ""},
        {"log_level": "LOUD"},
        {"log_format": "xml"},
        {"trace_url": "jaeger:16686"},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_its_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        settings(**changes)

    assert [problem.split()[0] for problem in refusal.value.problems] == list(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"spools": {"default": Path("/spool"), "big-files": Path("/big")}},
        *({"s3_addressing": style} for style in ("path", "virtual", "auto")),
        *({"s3_checksum": checksum} for checksum in ("sha256", "when_required", "off")),
        *({"s3_sse": sse} for sse in ("AES256", "aws:kms", "aws:kms:dsse", "aws:kms:arn:aws:kms:eu-west-1:1:key/a-1")),
        {"upload_concurrency": 1},
        {"upload_concurrency": 1024},
        {"uploads_per_user": 1},
        {"uploads_per_user": 1024},
        {"retry_base_s": 600},
        {"retry_factor": 1},
        {"retry_jitter": 0},
        {"lease_s": 1},
        {"lease_s": 86_400},
        {"shutdown_grace_s": 0},
        {"wheel_horizon_s": 365 * 86_400},
        {"http_port": 0},
        {"http_port": 65_535},
        {"trace_url": "http://jaeger:16686"},
        {"trace_url": "https://jaeger"},
    ],
    ids=str,
)
def test_a_value_at_the_edge_of_its_range_is_accepted(changes: dict[str, Any]) -> None:
    made = settings(**changes)

    assert {name: getattr(made, name) for name in changes} == changes


def test_a_rule_on_two_settings_needs_both_values() -> None:
    """A value that could not be parsed is missing. Rules that compare this value with another one are skipped."""
    assert problems({"retry_max_s": 0.5}) == []
    assert problems({"http_host": "0.0.0.0"}) == []  # noqa: S104 - only checked
    assert problems({"listen_url": "host=direct"}) == []


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        settings(http_port=-1, lease_s=0, log_level="LOUD")

    assert len(refusal.value.problems) == 3


def test_the_cap_of_the_delay_is_at_least_the_first_delay() -> None:
    assert problems({"retry_base_s": 60.0, "retry_max_s": 30.0}) == ["retry_max_s must be at least retry_base_s"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])  # noqa: S104 - refused
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"http_host opens the HTTP server .* set http_token"):
        settings(http_host=host)

    assert settings(http_host=host, http_token="a-token").http_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert settings(http_host=host).http_token is None


def test_a_listen_url_needs_a_database_url() -> None:
    with pytest.raises(ConfigInvalid, match="listen_url needs database_url"):
        settings(listen_url="postgresql://direct")


def test_repr_shows_no_secrets() -> None:
    made = settings(database_url="postgresql://u:pass@h/d", listen_url="postgresql://u:pass@l/d", http_token="pass")

    assert "pass" not in repr(made)


def test_spools_are_immutable() -> None:
    given = {"default": Path("/spool")}
    made = settings(spools=given)
    given["other"] = Path("/other")

    assert dict(made.spools) == {"default": Path("/spool")}


def test_every_field_names_its_variable() -> None:
    """The docstrings under the fields document the settings. They must name every variable."""
    source = Path(__file__).parents[2] / "reactor" / "core" / "settings.py"
    text = source.read_text(encoding="utf-8")
    names = [attribute.name.removesuffix("_s").upper() for attribute in fields(Settings)]

    assert [name for name in names if f"REACTOR_{name}" not in text] == []
