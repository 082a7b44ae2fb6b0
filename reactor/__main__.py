"""The command `reactor`. The base installation has only the client; then the command says what to install."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command. Exits with 2 if the extra `server` isn't installed."""
    if find_spec("click") is None or find_spec("loguru") is None:
        sys.exit(_missing())
    from reactor.cli import main as cli  # noqa: PLC0415  # needs the extra

    cli(prog_name="reactor")


def _missing() -> int:
    sys.stderr.write(
        "reactor: this installation has only the Python client: for this command, pip install 'pgreactor[server]'\n"
    )
    return 2


if __name__ == "__main__":
    main()
