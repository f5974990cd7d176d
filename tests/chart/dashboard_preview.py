"""`make dashboard-preview`: draws every panel from a real service under a small load, to docs/pictures/."""

import tempfile
import time
from pathlib import Path

from tests.support.collector import Collector
from tests.support.load import environment, load
from tests.support.prometheus import PrometheusServer
from tests.support.proxy_backend_server import DecidingBackend
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.webhook_receiver import WebhookReceiver
from tools.dashboards.dashboard import Panel
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview
from tools.dashboards.picture import Line, draw

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
LOAD_SECONDS = 90
OUTAGE_AT = 50
OUTAGE_SECONDS = 6


def main() -> None:
    """Run the service for a minute and a half, Redis away for a moment, and draw what Prometheus saw of it."""
    PICTURES.mkdir(exist_ok=True)
    for picture in PICTURES.glob("*.png"):
        picture.unlink()
    with (
        tempfile.TemporaryDirectory() as directory,
        RedisServer() as redis,
        WebhookReceiver() as receiver,
        Collector() as collector,
        DecidingBackend() as backend,
    ):
        settings = {
            **environment(Path(directory), redis.url),
            "STARLING_WEBHOOK_URL": receiver.url,
            "STARLING_PROXY_RPC": backend.url("rpc"),
            "STARLING_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }
        with Starling(settings) as one, Starling(settings) as other:
            pods = {"starling-0": one, "starling-1": other}
            targets = {name: f"127.0.0.1:{pod.internal_port}" for name, pod in pods.items()}
            with PrometheusServer(targets) as prometheus, load(one.url), load(other.url, talkers=4):
                began = time.time()
                time.sleep(OUTAGE_AT)
                redis.stop()
                time.sleep(OUTAGE_SECONDS)
                redis.start()
                time.sleep(began + LOAD_SECONDS - time.time())
                for panel in (*overview().panels, *internals().panels):
                    draw(panel, lines(panel, prometheus, began), PICTURES / panel.picture)
                    print(f"drew {panel.title}")


def lines(panel: Panel, prometheus: PrometheusServer, began: float) -> list[Line]:
    """What the panel shows from `began`, in seconds since 1970, until now."""
    found = []
    for query in panel.queries:
        for series in prometheus.range(query.expression, began, time.time()):
            legend = query.legend
            for name, value in series.labels.items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            if series.values:
                found.append((legend, series.times, series.values))
    return found


if __name__ == "__main__":
    main()
