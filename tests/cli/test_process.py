"""A command ends even if a thread hangs in an abandoned put."""

import subprocess
import sys

WITHIN_S = 30.0

HANGING = """
import asyncio, threading
from reactor.cli.process import exit_if_threads_hang
from reactor.runtime.executor import Job
from reactor.runtime.thread_pool import ThreadPool

async def main():
    began, never = threading.Event(), threading.Event()
    pool = ThreadPool[Job](lambda job: (began.set(), never.wait()), 1, name="put")
    job = Job()
    pool.submit([job])
    began.wait()
    assert pool.abandon(job)
    pool.close()

asyncio.run(main())
print("stopped")
exit_if_threads_hang()
"""


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=WITHIN_S, check=True)
    assert done.stdout == "stopped\n"
