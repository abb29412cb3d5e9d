"""The files of deploy/observability: what promtool says of them, and that their parts fit together."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OBSERVABILITY = Path(__file__).resolve().parents[3] / "deploy" / "observability"
DASHBOARDS = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))


def read(name: str) -> Any:
    return yaml.safe_load((OBSERVABILITY / name).read_text())


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]],
)
def test_promtool_is_content(arguments: list[str]) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool here (Debian's package prometheus has it)")
    done = subprocess.run(
        [program, *arguments], cwd=OBSERVABILITY, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_says_what_to_do_and_is_tested() -> None:
    rules = [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]
    tested = {
        case["alertname"]
        for test in read("alerts.test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert {rule["alert"] for rule in rules} == tested
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "action"}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: str(file.stem))
def test_a_dashboard_fits_together(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == source["uid"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_the_collector_s_pipelines_name_parts_that_are_configured() -> None:
    collector = read("otel-collector.yml")
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= collector[kind].keys()
    assert set(collector["service"]["extensions"]) <= collector["extensions"].keys()
