"""Take pictures of two traces in Jaeger's user interface, for the README.

    python tests/support/jaeger_pictures.py USER_INTERFACE [FOLDER, default tests/pictures]

USER_INTERFACE is the built user interface of Jaeger (`packages/jaeger-ui/build`, after `npm run build`), because Go's
module has a placeholder only. Needs Jaeger (see tests/support/servers/jaeger.py) and Chromium. One upload fails twice
and is then stored; another is refused for good.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from support.app import open_app
from support.servers.fault_server import FaultServer, answers
from support.servers.jaeger import has, running_jaeger
from support.traced import TracedApp, one_by_one

CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT = 1180, 1400
MARGIN = 12

BUSY = answers(503, "SlowDown", "Reduce your request rate.")
REFUSED = answers(400, "KeyTooLongError", "Your key is too long.")


def take_picture(page: Page, url: str, file: Path, *, details_of: str | None) -> None:
    """Take a picture of a trace; with `details_of`, with the attributes of the first span of this name."""
    page.goto(url)
    rows = page.locator(".span-row")
    rows.first.wait_for()
    if details_of is not None:
        rows.filter(has=page.get_by_text(details_of, exact=True)).first.locator(".span-view").click()
        page.locator(".detail-row").get_by_text("Tags:").click()
        page.locator(".detail-row table").first.wait_for()
    last = rows.last.bounding_box()
    assert last is not None
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": WIDTH, "height": last["y"] + last["height"] + MARGIN})


def main() -> None:
    interface = Path(sys.argv[1]).resolve()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[1] / "pictures"
    with tempfile.TemporaryDirectory(prefix="reactor-pictures-") as temporary:
        home = Path(temporary)
        home.chmod(0o755)
        with (
            EmbeddedPostgres(home / "postgres") as server,
            running_jaeger(home, extensions__jaeger_query__ui__assets_path=str(interface)) as jaeger,
            FaultServer() as s3,
            sync_playwright() as playwright,
        ):
            migrate(server.url)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            with open_app(server.url, home) as app:
                traced = TracedApp(app=app, s3=s3, jaeger=jaeger, folder=home)
                with traced.reacting(REACTOR_RETRY_BASE="0.25s"):
                    for name, faults, details_of in (
                        ("stored", [BUSY, BUSY], None),
                        ("dead", [BUSY, REFUSED], "upload"),
                    ):
                        s3.fault = one_by_one(*faults)
                        [upload] = app.queue_uploads(content=os.urandom(2_000_000))
                        trace_id = traced.trace_id(upload.id)
                        jaeger.trace(trace_id, has("upload"))
                        file = folder / f"trace-{name}.png"
                        take_picture(page, f"{jaeger.url}/trace/{trace_id}", file, details_of=details_of)
            browser.close()


if __name__ == "__main__":
    main()
