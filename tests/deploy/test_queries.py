"""The queries of dashboard and alerts use only metrics and labels that a reactor exports."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
from support.app import open_app
from support.deploy_files import DEPLOY, document
from support.exported_metrics import exported_metrics
from support.recorder import Recorder

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PROMETHEUS_ADDS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
TARGET_LABELS = {"job", "instance"}


def queries() -> Iterator[tuple[str, str]]:
    """Yield each query's place, for example "panel 'Queue by status'", and the query's expression."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"panel '{panel['title']}'", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation '{annotation['name']}'", annotation["expr"]
    for group in document(DEPLOY / "prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield f"alert '{rule['alert']}'", rule["expr"]


def nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and all its subexpressions."""
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from nodes(child)
    for child in getattr(node, "args", ()):
        yield from nodes(child)


def metrics_in(expr: str) -> dict[str, set[str]]:
    """Return the metrics in an expression, each with the labels that it is filtered or grouped by."""
    tree = list(nodes(promql_parser.parse(expr.replace("$__rate_interval", "5m"))))
    found: dict[str, set[str]] = {}
    for node in tree:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a name in {expr}"
            found.setdefault(node.name, set()).update(matcher.name for matcher in node.matchers.matchers)
    for node in tree:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for inner in nodes(node.expr):
                if isinstance(inner, promql_parser.VectorSelector) and inner.name:
                    found[inner.name] |= set(node.modifier.labels)
    return found


async def test_every_metric_and_label_in_a_query_is_exported(
    migrated_url: str, tmp_path: Path, recorder: Recorder
) -> None:
    with open_app(migrated_url, tmp_path) as app:
        exports = PROMETHEUS_ADDS | await exported_metrics(app, recorder)
    unknown = [
        f"{where}: {metric}"
        for where, expr in queries()
        for metric, labels in metrics_in(expr).items()
        if metric not in exports or labels - exports[metric] - TARGET_LABELS
    ]
    assert not unknown, f"queries use metrics or labels that no reactor exports; exported are {exports}"


def test_metrics_in_finds_every_metric_and_label() -> None:
    assert metrics_in('sum by (a) (rate(x_total{b="1"}[5m])) / y unless on () z offset 15m') == {
        "x_total": {"a", "b"},
        "y": set(),
        "z": set(),
    }


def test_every_metric_of_an_alert_is_on_the_dashboard() -> None:
    metrics = {name for _, expr in queries() for name in metrics_in(expr)} - {"ALERTS"}
    shown = {name for panel in PANELS for target in panel["targets"] for name in metrics_in(target["expr"])}
    assert metrics == shown


def test_gauges_of_the_database_are_never_summed_over_reactors() -> None:
    """Each reactor exports the same values of the shared database, so a sum would multiply these values."""
    shared = {"storage_queue_depth", "storage_queue_oldest_age_seconds", "interpretation_running"} | {
        "quota_rejections_total",
        "storage_usage_bytes",
    }
    for where, expr in queries():
        for node in nodes(promql_parser.parse(expr.replace("$__rate_interval", "5m"))):
            if isinstance(node, promql_parser.AggregateExpr) and str(node.op) != "max":
                assert not shared & set(metrics_in(node.expr.prettify())), where


# Grafana


def test_the_dashboard_is_provisioned_with_its_data_sources() -> None:
    sources = document(DEPLOY / "grafana/provisioning/datasources/datasources.yaml")["datasources"]
    types = {source["uid"]: source["type"] for source in sources}
    used = [DASHBOARD["annotations"]["list"][0]["datasource"]]
    used += [holder["datasource"] for panel in PANELS for holder in (panel, *panel["targets"])]
    assert all(types[source["uid"]] == source["type"] for source in used)

    [provider] = document(DEPLOY / "grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    mounts = document(DEPLOY / "compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboard.json:{provider['options']['path']}/reactor.json:ro" in mounts


def test_every_panel_has_a_free_place_a_description_and_queries() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places, panel["title"]
        places |= cells
    assert all(panel["description"] and panel["targets"] for panel in PANELS)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
