"""The peer graphile-worker, which runs in a Node process. npm installs it if Node is installed."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from .peer import Peer
from .raw import raw

_GRAPHILE = """
const { run, makeWorkerUtils } = require("graphile-worker");
const silent = new (require("graphile-worker").Logger)(() => () => {});
const [, what, connectionString, preset] = process.argv;
let reported = 0;
const now = () => Number(process.hrtime.bigint()) / 1e9;
(async () => {
  if (what === "migrate") {
    const utils = await makeWorkerUtils({ connectionString, logger: silent });
    await utils.migrate();
    await utils.release();
    return;
  }
  const runner = await run({
    connectionString, logger: silent, noHandleSignals: true, concurrency: 24,
    taskList: { noop: async (_, { job }) => {
      if (what === "all" || !reported++) process.stdout.write(JSON.stringify([String(job.id), now()]) + "\\n");
    } },
    preset: { worker: JSON.parse(preset) },
  });
  process.stdout.write("ready\\n");
  process.stdin.on("end", async () => { await runner.stop(); process.exit(0); }).resume();
})();
"""


class GraphileWorker(Peer):
    has_process = True
    name = "graphile-worker"
    jobs = 20_000
    left = "select count(*) from graphile_worker._private_jobs"
    enqueue = "select graphile_worker.add_job('noop', '{}'::json)"
    due = "select id, extract(epoch from run_at)::float8 from graphile_worker._private_jobs"

    def __init__(self) -> None:
        self._reason: str | None = None
        self._home = Path()
        self._tried = False

    def install(self, home: Path) -> None:
        """Install into `home`, with npm, the newest version that the installed Node can run."""
        self._tried, self._home = True, home
        home.mkdir()
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            self._reason = "node or npm isn't installed"
            return
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        major = int(version[1:].partition(".")[0])
        wanted = "graphile-worker@^0.18.0" if major >= 22 else "graphile-worker@~0.16.6"
        done = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), wanted],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        if done.returncode:
            self._reason = f"npm can't install it: {(done.stderr or done.stdout).strip()[-200:]}"

    def reason_missing(self) -> str | None:
        return self._reason if self._tried else "it wasn't installed"

    async def _node(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "node", "-e", _GRAPHILE, "--", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=self._home,
        )  # fmt: skip

    async def prepare(self, url: str) -> None:
        await (await self._node("migrate", url)).communicate()

    async def fill(self, url: str, delays_s: list[float]) -> None:
        conn = await raw(url)
        await conn.execute(
            "select graphile_worker.add_job('noop', '{}'::json, run_at => clock_timestamp() + make_interval(secs => d))"
            " from unnest(%s::float8[]) as d",
            (delays_s,),
        )
        await conn.close()

    @asynccontextmanager
    async def working(self, url: str, started: Callable[[str, float], None]) -> AsyncIterator[None]:
        conn = await raw(url)
        is_backlog = await (await conn.execute("select count(*) from graphile_worker._private_jobs")).fetchone() != (0,)
        await conn.close()
        # the documented settings for throughput increase graphile-worker's latency, so only a backlog uses them
        settings = {"localQueue": {"size": 2000}, "completeJobBatchDelay": 5} if is_backlog else {}
        preset = json.dumps({**settings, "concurrentJobs": 24})
        process = await self._node("first" if is_backlog else "all", url, preset)
        assert process.stdout is not None
        assert process.stdin is not None
        await process.stdout.readline()

        async def read() -> None:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                job, at = json.loads(line)
                started(job, at)

        reading = asyncio.create_task(read())
        yield
        process.stdin.close()
        await process.wait()
        await reading
