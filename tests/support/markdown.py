"""The code blocks, the prose and the headings of the project's READMEs, for tests that check the READMEs."""

import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]
READMES = tuple(
    path
    for path in (
        ROOT / "README.md",
        *sorted(ROOT.glob("*/README.md")),
        ROOT / "deploy/supabase.md",
    )
    if path.parent.name != "node_modules"
)
"""Every README, and the notes on Supabase."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)$")
_COMMENT = re.compile(r"^ *<!-- (?P<text>.*) -->$")


@frozen(kw_only=True)
class Block:
    """One fenced code block."""

    path: Path
    line: int
    """Number of the line with the opening fence, from 1."""

    language: str
    """The word after the fence; empty for none."""

    comment: str
    """The HTML comment on the line above; empty for none."""

    text: str

    @property
    def name(self) -> str:
        """Return the file and the line, relative to the root."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def is_run_here(self) -> bool:
        """Return False if the comment says that another test runs the block, or says why it can't run; else True."""
        return not self.comment.startswith(("not run: ", "run by: ", "test command"))


def blocks(path: Path) -> Iterator[Block]:
    """Yield the code blocks of a file. Raises ValueError for a block that isn't closed."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        indent = opening["indent"]
        end = lines.index(f"{indent}```", number + 1)
        comment = _COMMENT.match(lines[number - 1]) if number else None
        yield Block(
            path=path,
            line=number + 1,
            language=opening["language"],
            comment=comment["text"] if comment else "",
            text="\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n",
        )
        number = end + 1


def blocks_of(*languages: str) -> list[Block]:
    """Return the blocks in these languages of all READMEs, without those that another test runs or that can't run."""
    return [block for path in READMES for block in blocks(path) if block.language in languages and block.is_run_here]


def prose(path: Path) -> str:
    """Return a file's text without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
