"""A connection string is refused if libpq would take a part of its password for a host, a port or a database."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from reactor.client.arguments import as_connection_string
from reactor.configuration import load
from reactor.core.connection_string import misreads_password
from reactor.core.errors import ConfigInvalid, InvalidArgument

MISREAD = [
    "postgresql://user:p@ss@host/db",
    "postgres://user:p@ss@host:5432/db",
    "POSTGRESQL://user:p@ss@host/db",
    "postgresql://user:p@@host/db",
    "postgresql://user:@ss@host",
    "postgresql://user:p@s@s@one:1,two:2/db",
    "postgresql://user:pa/ss@host/db",
    "postgresql://user:12/ss@host/db",
    "postgresql://user:p@s/s@host/db",
    "postgresql://user:secret/db",
    "postgresql://user:p?a@ss@host/db",
    "postgresql://host?user=u&password=p@ss",
    "postgresql://host:5432?password=p@ss",
    "postgresql://u@ser:pass@host/db",
    "host=user:pass@host dbname=db",
    "host=one,p@ss port=1,2",
    "host=h port=secret",
    "hostaddr=p@ss",
]

RIGHT = [
    "",
    "postgresql://",
    "postgresql:///db?host=/var/run/postgresql",
    "postgresql://host",
    "postgresql://user@host:5432/db",
    "postgresql://user:p%40ss@host/db",
    "postgresql://user:p?a#ss@host/db",
    "postgresql://us%40er:p%2Fa%3Fs@host/my%40db",
    "postgresql://user:p:a:ss@one:1,two:2/db?target_session_attrs=read-write",
    "postgresql://user:pass@[::1]:5432/db",
    "postgresql://user:pass@host/db?application_name=a@b",
    "postgresql://user:pass@%2Fvar%2Frun/db",
    "host=h port=5432 password=p@ss/word user=u@corp dbname=d",
    "host=@abstract",
    "host=one,@abstract,/var/run port=,5432,",
]


def is_misread(text: str) -> bool:
    """Return True also for what libpq itself refuses."""
    try:
        return misreads_password(text, conninfo_to_dict(text))
    except (ProgrammingError, UnicodeDecodeError):
        return True


@pytest.mark.parametrize("text", MISREAD)
def test_a_password_that_is_not_encoded_is_recognised(text: str) -> None:
    assert is_misread(text)


@pytest.mark.parametrize("text", RIGHT)
def test_an_encoded_password_and_all_other_forms_are_accepted(text: str) -> None:
    assert not is_misread(text)


PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(PASSWORDS)
def test_no_part_of_any_password_becomes_another_part_unnoticed(password: str) -> None:
    for url in (f"postgresql://user:{password}@host:5432/db", f"postgresql://user:{password}@host/db?sslmode=require"):
        if not is_misread(url):
            parts = conninfo_to_dict(url)
            assert (parts["host"], parts["dbname"]) == ("host", "db")
            assert parts.get("port", "5432") == "5432"
    assert not is_misread(f"postgresql://user:{quote(password, safe='')}@host:5432/db")


@pytest.mark.parametrize("password", ["%80", "%ff%fe", "%e4"])
def test_a_password_of_bytes_that_are_no_utf_8_is_refused_in_one_line(password: str) -> None:
    with pytest.raises(InvalidArgument, match="must be a postgresql:// URL"):
        as_connection_string("dsn", f"postgresql://user:{password}@host/db")
    with pytest.raises(ConfigInvalid, match="REACTOR_DATABASE_URL must be a postgresql:// URL"):
        load({"REACTOR_DATABASE_URL": f"postgresql://user:{password}@host/db"})
