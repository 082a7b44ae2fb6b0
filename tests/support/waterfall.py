"""Draw a trace as a waterfall, from the spans that a collector received.

    python tests/support/waterfall.py [FOLDER, default tests/pictures]

Starts an embedded PostgreSQL, a reactor and a collector. One upload fails twice and is then stored; another upload ends
as dead. Draws each trace that the collector received as one SVG, which is readable on light and dark backgrounds.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from loguru import logger

from reactor.core.errors import ReactorError, StorageRejected, StorageUnavailable
from reactor.core.events import AttemptSettled
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from support.app import App, open_app
from support.recorder import Recorder
from support.servers.otlp_receiver import ReceivedSpan, Receiver, receiving
from support.stubborn_store import StubbornStore

_WIDTH, _NAMES, _RIGHT = 1000, 190, 275
_ROW, _BAR, _TOP = 24, 12, 54
_COLOURS = {
    "upload": "#6e7781",
    "upload.queued": "#8250df",
    "upload.backoff": "#bf8700",
    "upload.attempt": "#1f883d",
    "upload.put": "#0969da",
    "upload.settle": "#0a7ea4",
}
_FAILED = "#cf222e"
_FONT = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="12"'
# an opaque background, so that the text is readable on a page of any colour
_STYLE = (
    ".b{fill:#fff}.w{fill:#1f2328}.d{fill:#59636e}.g{stroke:#8c959f;stroke-opacity:.35}.l{stroke:#8250df;fill:none}"
    "@media (prefers-color-scheme: dark){.b{fill:#0d1117}.w{fill:#e6edf3}.d{fill:#9198a1}.l{stroke:#ab7df8}}"
)
_MS = 1_000_000


def to_svg(spans: Sequence[ReceivedSpan], title: str) -> str:
    """Return the trace as SVG."""
    rows = ordered(spans)
    begin, end = min(span.start for span, _ in rows), max(span.end for span, _ in rows)
    scale = (_WIDTH - _NAMES - _RIGHT) / max(1, end - begin)

    def x(moment: int) -> float:
        return _NAMES + (moment - begin) * scale

    height = _TOP + _ROW * len(rows) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" {_FONT}>',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="b" width="{_WIDTH}" height="{height}" rx="8"/>',
        f'<text class="w" x="12" y="20" font-weight="600">{escape(title)}</text>',
    ]
    for tick in range(5):
        moment = begin + (end - begin) * tick // 4
        tick_x = x(moment)
        parts.append(f'<line class="g" x1="{tick_x:.1f}" x2="{tick_x:.1f}" y1="{_TOP - 8}" y2="{height - 8}"/>')
        tick_label = duration_text(moment - begin)
        parts.append(f'<text class="d" x="{tick_x:.1f}" y="{_TOP - 14}" text-anchor="middle">{tick_label}</text>')
    places: dict[str, tuple[float, float]] = {}
    for number, (span, depth) in enumerate(rows):
        y = _TOP + number * _ROW
        width = max(2.0, (span.end - span.start) * scale)
        colour = _FAILED if span.is_error else _COLOURS[span.name]
        places[span.span_id] = (x(span.start), y)
        opacity = ' fill-opacity="0.45"' if span.name == "upload.backoff" else ""
        bar = f'x="{x(span.start):.1f}" y="{y + 1}" width="{width:.1f}" height="{_BAR}" rx="2"'
        tooltip = ", ".join(f"{key}={value}" for key, value in span.attributes.items() if key != "upload.id")
        parts += [
            f"<g><title>{escape(f'{span.name} ({span.kind}) {tooltip} {span.message}'.strip())}</title>",
            f'<text class="w" x="{12 + 14 * depth}" y="{y + 11}">{escape(label(span))}</text>',
            f'<rect {bar} fill="{colour}"{opacity}/>',
            f'<text class="d" x="{x(span.end) + 6:.1f}" y="{y + 11}">{escape(note(span))}</text></g>',
        ]
    for span, _ in rows:
        for _, linked_id in span.links:
            (from_x, from_y), (to_x, to_y) = places[linked_id], places[span.span_id]
            parts.append(
                f'<path class="l" stroke-dasharray="3 3" d="M{to_x - 2:.1f} {to_y + 7} H{from_x - 10:.1f}'
                f' V{from_y + 7} H{from_x - 2:.1f}"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def ordered(spans: Sequence[ReceivedSpan]) -> list[tuple[ReceivedSpan, int]]:
    """Return (span, depth) in the order of a tree: children by time, but the span `upload` last."""
    of_parent: dict[str, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.name == "upload", span.start, span.end)):
        of_parent.setdefault(span.parent_id, []).append(span)

    def subtree(parent_id: str, depth: int) -> list[tuple[ReceivedSpan, int]]:
        return [
            row for span in of_parent.get(parent_id, []) for row in [(span, depth), *subtree(span.span_id, depth + 1)]
        ]

    return subtree("", 0)


def label(span: ReceivedSpan) -> str:
    return f"{span.name} {span.attributes['upload.attempt']}" if span.name == "upload.attempt" else span.name


def note(span: ReceivedSpan) -> str:
    outcome = span.attributes.get("upload.outcome", "")
    cause = span.attributes.get("error.type", "") if span.is_error else ""
    return " ".join(word for word in (duration_text(span.end - span.start), outcome, cause) if word)


def duration_text(nanoseconds: int) -> str:
    """Return a duration with three digits."""
    milliseconds = nanoseconds / _MS
    if milliseconds == 0:
        return "0"
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


async def trace_of_upload(app: App, collector: Receiver, *failures: ReactorError) -> list[ReceivedSpan]:
    """Return the trace of an upload whose first attempts fail with `failures`, one error per attempt."""
    recorder, store = Recorder(), StubbornStore(app.store)
    async with app.running_reactor(recorder, store=store, retry_base_s=0.25, retry_max_s=10.0):
        with app.conn.transaction():
            [upload] = app.queue_uploads(content=os.urandom(2_000_000))
            store.fail(upload.key, *failures)
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict in ("stored", "dead"))
    spans = collector.wait(lambda spans: any(span.name == "upload" and belongs_to(span, upload.id) for span in spans))
    return [span for span in spans if belongs_to(span, upload.id)]


def belongs_to(span: ReceivedSpan, upload_id: object) -> bool:
    return span.attributes.get("upload.id") == str(upload_id)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "pictures"
    folder.mkdir(exist_ok=True)
    logger.remove()
    busy = StorageUnavailable("503 SlowDown", http_status=503)
    rejected = StorageRejected("404 NoSuchBucket", http_status=404)
    with tempfile.TemporaryDirectory(prefix="reactor-waterfall-") as home, receiving() as collector:
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = collector.endpoint + "/v1/traces"
        Path(home).chmod(0o755)
        with EmbeddedPostgres(Path(home) / "postgres") as server:
            migrate(server.url)
            for name, title, failures in (
                ("stored", "An upload that failed twice and was then stored", [busy, busy]),
                ("dead", "An upload that was given up: its bucket is gone", [busy, rejected]),
            ):
                with open_app(server.url, Path(home)) as app:
                    spans = asyncio.run(trace_of_upload(app, collector, *failures))
                (folder / f"trace-{name}.svg").write_text(to_svg(spans, title), encoding="utf-8")


if __name__ == "__main__":
    main()
