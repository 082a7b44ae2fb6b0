"""Detection of a container engine. A `docker` command without a running engine isn't enough for pytest-docker."""

import subprocess
from functools import cache


@cache
def docker_is_available() -> bool:
    """Return whether a container engine runs and the compose plugin is installed. Cached."""
    try:
        for command in (["docker", "info"], ["docker", "compose", "version"]):
            subprocess.run(command, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
