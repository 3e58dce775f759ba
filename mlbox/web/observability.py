"""What to look at in Grafana and to be called for by Prometheus: one definition, of which both files are made.

`python -m docs.generate` writes them; a test checks that every metric that is named here is one that `/metrics` has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple


class Panel(NamedTuple):
    """A graph: series by legend."""

    title: str
    expr: str
    legend: str
    unit: str = "short"
    guide: float | None = None
    """Where an alert begins."""


class Record(NamedTuple):
    """A series that Prometheus computes."""

    name: str
    expr: str


class Rule(NamedTuple):
    """A condition that Prometheus calls for."""

    alert: str
    expr: str
    hold: str
    severity: str
    summary: str


RECORDS = (
    Record("model:ml_predictions:rate5m", "sum by (model_name, model_version) (rate(ml_predictions_total[5m]))"),
    Record(
        "model:ml_prediction_errors:ratio5m",
        'sum by (model_name) (rate(ml_prediction_outcomes_total{outcome="error"}[5m]))'
        " / sum by (model_name) (rate(ml_prediction_outcomes_total[5m]))",
    ),
    Record(
        "model:ml_prediction_latency_seconds:p99_5m",
        "histogram_quantile(0.99, sum by (model_name, le) (rate(ml_prediction_latency_seconds_bucket[5m])))",
    ),
)
PANELS = (
    Panel("Predictions", "model:ml_predictions:rate5m", "{{model_name}}/{{model_version}}", "ops"),
    Panel("Share that failed", "model:ml_prediction_errors:ratio5m", "{{model_name}}", "percentunit"),
    Panel("Latency, 99th percentile", "model:ml_prediction_latency_seconds:p99_5m", "{{model_name}}", "s"),
    Panel(
        "Median score",
        "histogram_quantile(0.5, sum by (model_name, model_version, le) (rate(ml_prediction_score_bucket[15m])))",
        "{{model_name}}/{{model_version}}",
    ),
    Panel(
        "Features that drift most",
        "topk(20, ml_feature_drift_ks_statistic)",
        "{{model_name}} {{feature_name}}",
        guide=0.2,
    ),
    Panel(
        "Features that are missing most",
        "topk(20, ml_feature_missing_ratio)",
        "{{model_name}} {{feature_name}}",
        "percentunit",
    ),
    Panel(
        "Served as the history says, the lowest",
        "bottomk(20, ml_feature_skew_equal_ratio)",
        "{{model_name}} {{feature_name}}",
        "percentunit",
    ),
    Panel("What labels say", "ml_live_metric", "{{model_name}}/{{model_version}} {{metric}}"),
    Panel("Predictions with a label", "ml_label_coverage_ratio", "{{model_name}}/{{model_version}}", "percentunit"),
    Panel("GPUs", "mlbox_gpu_utilization_ratio", "{{gpu}}", "percentunit"),
    Panel("Alerts that fire", "mlbox_alerts_firing", "{{name}}"),
    Panel("Jobs", "mlbox_jobs", "{{state}}"),
    Panel("Predictions that were not logged", "rate(mlbox_prediction_log_dropped_total[5m])", "dropped", "ops"),
    Panel("Sources of these metrics that are up", "mlbox_metrics_source_up", "{{source}}"),
    Panel("Memory of the server", "process_resident_memory_bytes", "resident", "bytes"),
)
RULES = (
    Rule(
        "FeatureDrifts",
        "ml_feature_drift_ks_statistic > 0.2",
        "0s",
        "warning",
        "{{ $labels.feature_name }} of {{ $labels.model_name }} drifts: D = {{ $value }}",
    ),
    Rule(
        "FeatureStopsArriving",
        "ml_feature_missing_ratio > 0.5",
        "10m",
        "warning",
        "{{ $labels.feature_name }} of {{ $labels.model_name }} is missing in more than half of what is served",
    ),
    Rule(
        "FeatureIsServedOtherwise",
        "ml_feature_skew_equal_ratio < 0.99",
        "0s",
        "warning",
        "{{ $labels.feature_name }} of {{ $labels.model_name }} is served otherwise than its history says",
    ),
    Rule(
        "PredictionsFail", "model:ml_prediction_errors:ratio5m > 0.01", "5m", "page", "{{ $labels.model_name }} fails"
    ),
    Rule(
        "PredictionsAreNotLogged",
        "rate(mlbox_prediction_log_dropped_total[5m]) > 0",
        "5m",
        "warning",
        "Predictions are dropped from the log",
    ),
    Rule(
        "AlertRulesAreWrong",
        "mlbox_alert_rules_valid == 0",
        "5m",
        "warning",
        "The rules of alerts are wrong, and those before stay in force",
    ),
    Rule(
        "MetricsAreIncomplete", "mlbox_metrics_source_up == 0", "5m", "warning", "{{ $labels.source }} cannot be read"
    ),
)


def dashboard() -> str:
    """A dashboard as Grafana imports it; it asks for the Prometheus to read from."""
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    found: dict[str, Any] = {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "uid": "mlbox",
        "title": "mlbox",
        "schemaVersion": 39,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "panels": [_panel(number, panel, source) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(found, indent=2) + "\n"


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.guide is not None:
        steps.append({"color": "red", "value": panel.guide})
    custom = {"thresholdsStyle": {"mode": "line" if panel.guide is not None else "off"}}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "targets": [{"refId": "A", "expr": panel.expr, "legendFormat": panel.legend, "datasource": source}],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
    }


def rules() -> str:
    """Recording and alerting rules as Prometheus reads them."""
    lines = ["groups:", "  - name: mlbox", "    rules:"]
    for record in RECORDS:
        lines += _item([("record", record.name), ("expr", record.expr)])
    for rule in RULES:
        lines += _item([("alert", rule.alert), ("expr", rule.expr), ("for", rule.hold)])
        lines.append(f"        labels: {{severity: {rule.severity}}}")
        lines.append(f"        annotations: {{summary: {json.dumps(rule.summary)}}}")
    return "\n".join(lines) + "\n"


def _item(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """One item of YAML's list; a text of JSON is one of YAML."""
    lines = [f"        {key}: {json.dumps(value)}" for key, value in pairs]
    return [f"      - {lines[0].strip()}", *lines[1:]]


FILES = {"grafana-dashboard.json": dashboard, "prometheus-rules.yml": rules}
"""What is shipped, by name."""
