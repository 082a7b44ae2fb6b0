"""Is there a container engine? The command alone is no answer: pytest-docker fails where only that is installed."""

import subprocess
from functools import cache


@cache
def docker_is_available() -> bool:
    """Ask the engine, and for the compose plugin; once."""
    try:
        for question in (["docker", "info"], ["docker", "compose", "version"]):
            subprocess.run(question, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
