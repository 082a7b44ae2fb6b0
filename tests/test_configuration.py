"""Settings are read from the environment and the file, and wrong settings have clear error messages."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from reactor.configuration import NAMES, load
from reactor.core.errors import ConfigInvalid

WriteToml = Callable[[str], Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    def write(text: str) -> Path:
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(environ: dict[str, str], config: Path | None = None) -> tuple[str, ...]:
    """Return the problems with these settings. The test fails if there is no problem."""
    with pytest.raises(ConfigInvalid) as refusal:
        load(environ, config)
    assert all("\n" not in problem for problem in refusal.value.problems)
    return refusal.value.problems


def test_with_no_settings_the_database_is_embedded_and_store_and_spool_are_in_the_data_folder(here: Path) -> None:
    settings = load({}, None)

    assert settings.database_url is None
    assert settings.data_dir == here / "reactor-data"
    assert settings.store_url == (here / "reactor-data" / "store").as_uri()
    assert settings.spools == {"default": here / "reactor-data" / "spool"}


def test_variables_are_read_with_their_units() -> None:
    settings = load(
        {
            "REACTOR_RETRY_BASE": "1h30m",
            "REACTOR_RETRY_MAX": "2h",
            "REACTOR_RETRY_FACTOR": "1.5",
            "REACTOR_LEASE": " 45 ",
            "REACTOR_UPLOAD_CONCURRENCY": "4",
            "REACTOR_HTTP_PORT": "0",
            "REACTOR_LOG_LEVEL": "debug",
            "REACTOR_LOG_FORMAT": "JSON",
            "REACTOR_STORE_URL": "s3://",
            "REACTOR_S3_ADDRESSING": "Virtual",
            "REACTOR_S3_SSE": " aws:kms:key-1 ",
            "UNRELATED": "x",
        },
        None,
    )

    assert (settings.retry_base_s, settings.retry_max_s, settings.retry_factor, settings.lease_s) == (
        5400,
        7200,
        1.5,
        45,
    )
    assert (settings.upload_concurrency, settings.http_port, settings.log_level, settings.log_format) == (
        4,
        0,
        "DEBUG",
        "json",
    )
    assert settings.store_url == "s3://"
    assert (settings.s3_addressing, settings.s3_checksum, settings.s3_sse) == ("virtual", "sha256", "aws:kms:key-1")


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({"REACTOR_LEASE": "", "REACTOR_HTTP_TOKEN": "  ", "DATABASE_URL": ""}, None) == load({}, None)


def test_a_file_is_read_with_numbers_and_durations(toml: WriteToml) -> None:
    settings = load({}, toml('retry_base = "45s"\nlease = 20\nretry_jitter = 0\nhttp_port = 80\nlog_level = "info"'))

    assert (settings.retry_base_s, settings.lease_s, settings.retry_jitter, settings.http_port) == (45, 20, 0, 80)


def test_the_environment_wins_over_the_file(toml: WriteToml) -> None:
    assert load({"REACTOR_LEASE": "10s"}, toml('lease = "20s"')).lease_s == 10


def test_reactor_toml_in_the_working_directory_is_read_unless_another_is_named(here: Path, toml: WriteToml) -> None:
    (here / "reactor.toml").write_text("lease = 20", encoding="utf-8")

    assert load({}, None).lease_s == 20
    assert load({}, toml("")).lease_s == 30


def test_the_first_source_that_is_set_names_the_database(toml: WriteToml) -> None:
    file = toml('database_url = "host=file"')
    environ = {"DATABASE_URL": "postgresql://general", "PGHOST": "libpq"}

    assert load(environ | {"REACTOR_DATABASE_URL": "host=own"}, file).database_url == "host=own"
    assert load(environ, file).database_url == "host=file"
    assert load(environ, None).database_url == "postgresql://general"
    assert load({"PGHOST": "libpq"}, None).database_url == ""
    assert load({"PGSERVICE": "libpq"}, None).database_url == ""
    assert load({"PGSSLMODE": "require"}, None).database_url is None


def test_spools_are_read_from_the_environment_or_a_table(here: Path, toml: WriteToml) -> None:
    environ = {"REACTOR_SPOOL_DIR": "/a", "REACTOR_SPOOLS": "fast=/b, big = here"}
    file = toml('spool_dir = "/x"\n[spools]\nslow = "/y"')

    assert load(environ, None).spools == {"default": Path("/a"), "fast": Path("/b"), "big": here / "here"}
    assert load({}, file).spools == {"default": Path("/x"), "slow": Path("/y")}


@pytest.mark.parametrize("text", ["nofolder", "a=", "=/b", "a=/b,a=/c", "default=/b"])
def test_spools_that_are_not_pairs_are_refused(text: str) -> None:
    [problem] = problems_of({"REACTOR_SPOOLS": text})

    assert problem.startswith("REACTOR_SPOOLS must be name=/folder pairs")


def test_all_problems_are_reported_at_once_with_variable_or_key_and_file(toml: WriteToml) -> None:
    file = toml('lease = "soon"\nhttp_port = true')

    assert problems_of({"REACTOR_RETRY_BASE": "-1", "REACTOR_RETRY_JITTER": "2", "REACTOR_SPOLS": "x"}, file) == (
        "REACTOR_SPOLS is not a setting: did you mean REACTOR_SPOOLS?",
        "REACTOR_RETRY_BASE must be a duration like 30s, 0.5s, 5m, 1h30m, or plain seconds, not '-1'",
        f"lease in {file} must be a duration like 30s, 0.5s, 5m, 1h30m, or plain seconds, not 'soon'",
        f"http_port in {file} must be a whole number, not 'True'",
        "REACTOR_RETRY_JITTER must be a number from 0 to below 1, not '2'",
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REACTOR_UPLOAD_CONCURRENCY", "many"),
        ("REACTOR_UPLOAD_CONCURRENCY", "1.5"),
        ("REACTOR_HTTP_PORT", "70000"),
        ("REACTOR_HTTP_PORT", "9" * 5000),
        ("REACTOR_RETRY_FACTOR", "nan"),
        ("REACTOR_LEASE", "inf"),
        ("REACTOR_STORE_URL", "s3://bucket"),
        ("REACTOR_STORE_URL", "gs://bucket"),
        ("REACTOR_LOG_LEVEL", "LOUD"),
        ("REACTOR_TRACE_URL", "localhost"),
        ("REACTOR_DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "postgresql+asyncpg://host/db"),
    ],
)
def test_a_wrong_value_is_reported_in_one_short_line_that_names_its_variable(variable: str, text: str) -> None:
    [problem] = problems_of({variable: text})

    assert problem.startswith(f"{variable} must be ")
    assert len(problem) < 250


def test_an_unknown_key_of_the_file_is_reported_with_the_nearest_known_one(toml: WriteToml) -> None:
    file = toml("retry_bse = 1\nzzz = 2\nREACTOR_LEASE = 3")

    assert problems_of({}, file) == (
        f"retry_bse in {file} is not a setting: did you mean retry_base?",
        f"zzz in {file} is not a setting: remove it",
        f"REACTOR_LEASE in {file} is not a setting: did you mean lease?",
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REACTOR_TEST_DSN", "x"),
        ("REACTOR_SERVICE_HOST", "10.0.0.7"),
        ("REACTOR_SERVICE_PORT_HTTP", "8321"),
        ("REACTOR_PORT", "tcp://10.0.0.7:8321"),
        ("REACTOR_PORT_8321_TCP_ADDR", "10.0.0.7"),
    ],
)
def test_variables_of_the_tests_and_of_kubernetes_are_ignored(variable: str, text: str) -> None:
    assert load({variable: text}, None) == load({}, None)


def test_a_variable_in_lower_case_is_reported_with_its_spelling() -> None:
    assert problems_of({"REACTOR_lease": "1"}) == ("REACTOR_lease is not a setting: did you mean REACTOR_LEASE?",)
    assert problems_of({"REACTOR_PORT": "80"}) == ("REACTOR_PORT is not a setting: did you mean REACTOR_HTTP_PORT?",)


def test_other_machines_need_a_token() -> None:
    [problem] = problems_of({"REACTOR_HTTP_HOST": "0.0.0.0"})  # noqa: S104 - refused

    assert problem == (
        "REACTOR_HTTP_HOST opens the HTTP server to other machines: set REACTOR_HTTP_TOKEN, or use 127.0.0.1"
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REACTOR_DATABASE_URL", "postgresql://user:hunter2@host:port:port/db"),
        ("REACTOR_DATABASE_URL", "hunter2"),
        ("REACTOR_LISTEN_URL", "password hunter2"),
        ("DATABASE_URL", "mysql://user:hunter2@host/db"),
        ("REACTOR_HTTP_TOKEN", "hunter2 hunter2"),
        ("REACTOR_STORE_URL", "s3://key:hunter2@bucket"),
        ("REACTOR_STORE_URL", "s3://key:hun/ter2/hunter2@bucket"),
        ("REACTOR_STORE_URL", "host=db password=hunter2"),
        ("REACTOR_TRACE_URL", "ftp://user:hunter2@jaeger"),
    ],
)
def test_no_secret_is_in_a_message(variable: str, text: str) -> None:
    assert "hunter2" not in str(problems_of({variable: text, "REACTOR_LEASE": "x"}))


@pytest.mark.parametrize(
    ("variable", "text", "shown"),
    [
        ("REACTOR_TRACE_URL", "ftp://user:hunter2@jaeger", ", not 'ftp://***@jaeger'"),
        ("REACTOR_STORE_URL", "password = hunter2", ", not 'password = ***'"),
        ("REACTOR_LOG_LEVEL", "x" * 60, f", not '{'x' * 60}'"),
        ("REACTOR_LOG_LEVEL", "x" * 61, f", not '{'x' * 60}…'"),
        ("REACTOR_DATABASE_URL", "hunter2", "pairs as libpq reads them"),
    ],
)
def test_a_wrong_value_is_shown_without_secrets_and_cut(variable: str, text: str, shown: str) -> None:
    [problem] = problems_of({variable: text})

    assert problem.endswith(shown)


def test_a_value_that_cannot_be_read_causes_no_second_problem() -> None:
    [problem] = problems_of({"REACTOR_RETRY_MAX": "soon", "REACTOR_RETRY_BASE": "1h"})

    assert problem.startswith("REACTOR_RETRY_MAX must be a duration")


def test_an_empty_value_of_the_file_counts_as_not_set(toml: WriteToml) -> None:
    file = toml('lease = ""\ndatabase_url = ""')

    assert load({"DATABASE_URL": "host=general"}, file).database_url == "host=general"
    assert load({}, file).lease_s == 30


def test_a_problem_names_the_source_that_wins(toml: WriteToml) -> None:
    [problem] = problems_of({"REACTOR_LEASE": "soon"}, toml('lease = "20s"'))
    assert problem.startswith("REACTOR_LEASE must be")

    [problem] = problems_of({"REACTOR_HTTP_HOST": "::", "DATABASE_URL": "host=general"})
    assert "set REACTOR_HTTP_TOKEN" in problem


def test_no_secret_is_in_the_cause_of_an_error() -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        load({"REACTOR_DATABASE_URL": "hunter2"}, None)

    assert refusal.value.__cause__ is refusal.value.__context__ is None


@pytest.mark.parametrize("text", ["lease = ", "= 1", "[spools", 'lease = "20s"\nlease = "30s"'])
def test_invalid_toml_is_reported_in_one_line(toml: WriteToml, text: str) -> None:
    [problem] = problems_of({}, file := toml(text))

    assert problem.startswith(f"{file} isn't valid TOML: ")


def test_an_unreadable_file_is_reported_in_one_line(here: Path) -> None:
    (here / "binary.toml").write_bytes(b"\xff\xfe")

    assert problems_of({}, here / "missing.toml") == (f"{here}/missing.toml can't be read: No such file or directory",)
    assert problems_of({}, here) == (f"{here} can't be read: Is a directory",)
    assert problems_of({}, here / "binary.toml") == (f"{here}/binary.toml isn't UTF-8 text",)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(NAMES)), TEXTS, max_size=4))
def test_any_text_gives_settings_or_a_config_error(texts: dict[str, str]) -> None:
    with suppress(ConfigInvalid):
        load({f"REACTOR_{key.upper()}": text for key, text in texts.items()}, None)
