"""The SQL examples of schema/README.md run in order and return what their comments show."""

import json
import re

import psycopg
from psycopg.rows import scalar_row

from reactor.postgres.migrate import schema_dir

README = (schema_dir() / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"(select .*?;)\n-- (\{[^\n]*\})\n", re.DOTALL)
"""A statement, and the comment with its result. The comment may leave fields out; … stands for any value."""

FIELD = re.compile(r'"(\w+)": ("[^"]*"|true|false|null|\d+)')


def examples() -> list[tuple[str, dict[str, object]]]:
    """Return each statement with the fields of its result that the README shows."""
    found = []
    for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL):
        statements = EXAMPLE.findall(re.sub(r"^-- (?!\{).*\n", "", block, flags=re.MULTILINE))
        assert len(statements) == block.count(";\n"), "a statement has no comment with its result"
        found += [
            (text, {key: json.loads(value) for key, value in FIELD.findall(answer)}) for text, answer in statements
        ]
    return found


def _details(answer: dict[str, object]) -> dict[str, object]:
    details = answer.get("details", {})
    assert isinstance(details, dict)
    return details


def test_each_example_returns_what_its_comment_shows(migrated_url: str) -> None:
    with psycopg.connect(migrated_url, autocommit=True, row_factory=scalar_row) as conn:
        for text, expected in examples():
            answer: dict[str, object] = conn.execute(text.encode()).fetchone() or {}
            fields = answer | _details(answer)
            assert {key: fields[key] for key in expected} == expected, text


def test_the_readme_has_examples_of_every_kind_of_call() -> None:
    texts = " ".join(text for text, _ in examples())
    for function in ("reserve_upload", "fail_upload", "complete_upload", "begin_interpretation", "get_usage"):
        assert f"public.{function}(" in texts
