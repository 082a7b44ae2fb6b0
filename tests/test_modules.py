"""Every module of reactor/ has a test file at the mirrored path, or a line in the table of tests/README.md."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "reactor"
SECTION = "## Modules without a test file of their own"


def modules() -> set[str]:
    """Return the paths of the package's modules, relative to the package, without `__init__.py` files."""
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}


def table() -> dict[str, list[str]]:
    """Return the test files that the README names for each module."""
    section = (TESTS / "README.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {
        module: re.findall(r"`([^`]+)`", tests) for names, tests in rows for module in re.findall(r"`([^`]+)`", names)
    }


def has_test_file(module: str) -> bool:
    path = Path(module)
    return (TESTS / path.parent / f"test_{path.name}").is_file()


def test_every_module_has_a_test_file_or_a_line_in_the_table() -> None:
    assert sorted(module for module in modules() - table().keys() if not has_test_file(module)) == []


def test_every_line_of_the_table_names_modules_and_tests_that_exist() -> None:
    assert sorted(table().keys() - modules()) == []
    assert all(table().values())
    assert sorted({test for tests in table().values() for test in tests if not (TESTS / test).is_file()}) == []
