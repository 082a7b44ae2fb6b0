"""A peer that drains a queue of jobs; run as a module, in a process of its own."""

import asyncio
import sys

from .alone import tell
from .peers import PEERS

if __name__ == "__main__":
    name, url, jobs = sys.argv[1:]
    [peer] = [peer for peer in PEERS if peer.name == name]
    tell({"per_s": int(jobs) / asyncio.run(peer.drain(url, int(jobs)))})
