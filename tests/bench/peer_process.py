"""Drain a queue with a peer (another job queue) in a separate process."""

import asyncio
import sys

from .own_process import print_figures
from .peers import PEERS

if __name__ == "__main__":
    name, url, jobs = sys.argv[1:]
    [peer] = [peer for peer in PEERS if peer.name == name]
    print_figures({"per_s": int(jobs) / asyncio.run(peer.drain(url, int(jobs)))})
