"""What Prometheus is told: requests and their times as they happen, queues and sensors when it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from edgeinfer import machine
from edgeinfer.devices import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.serve.cameras import Cameras
    from edgeinfer.serve.repository import Found, Repository
    from edgeinfer.serve.tally import Ran

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64)
# sensors worth a gauge: their field; the metric's name, in a base unit, and how many of it one of the field's is
SENSORS = {
    "process.memory_mb": ("edgeinfer_memory_bytes", 1e6, "Resident memory of the service"),
    "cpu.temperature_c": ("edgeinfer_cpu_temperature_celsius", 1, "Hottest thermal zone"),
    "cpu.clock_mhz": ("edgeinfer_cpu_clock_hertz", 1e6, "Clock of the fastest processor"),
    "cpu.package_power_w": ("edgeinfer_cpu_power_watts", 1, "Power of the processor's package"),
    "gpu.temperature_c": ("edgeinfer_gpu_temperature_celsius", 1, "Temperature of the GPU"),
    "gpu.clock_mhz": ("edgeinfer_gpu_clock_hertz", 1e6, "Clock of the GPU"),
    "gpu.power_w": ("edgeinfer_gpu_power_watts", 1, "Power of the GPU"),
    "gpu.memory_mb": ("edgeinfer_gpu_memory_bytes", 1e6, "Memory used on the GPU"),
}


class Metrics:
    """Counts what the service does; `text` is the exposition that a scrape gets."""

    def __init__(self, repository: Repository) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "edgeinfer_requests", "Requests by how they ended", ("model", "outcome"), registry=self._registry
        )
        self._seconds = Histogram(
            "edgeinfer_request_seconds",
            "From a request's arrival to its answer",
            ("model",),
            registry=self._registry,
            buckets=SECONDS,
        )
        self._stages = Histogram(
            "edgeinfer_stage_seconds",
            "Time in each stage: queue for a request, the others for a batch",
            ("model", "stage"),
            registry=self._registry,
            buckets=SECONDS,
        )
        self._rows = Histogram(
            "edgeinfer_batch_rows", "Rows of the batches that ran", ("model",), registry=self._registry, buckets=ROWS
        )
        self.camera_ages = Histogram(
            "edgeinfer_camera_age_seconds",
            "From the capture of a camera's picture to its result",
            ("camera",),
            registry=self._registry,
            buckets=SECONDS,
        )
        self._children: dict[tuple[Any, ...], Any] = {}
        self._registry.register(_Present(repository))

    def follow(self, cameras: Cameras) -> None:
        """Tell of these cameras too."""
        self._registry.register(_Followed(cameras))

    def noting(self, found: Found) -> Callable[[Ran], None]:
        """What a station calls with every batch it ran for this model."""

        def note(ran: Ran) -> None:
            found.tally.ran(ran)
            name = found.name
            self._child(self._rows, name).observe(ran.rows)
            for queued_ns in ran.queued_ns:
                self._child(self._stages, name, "queue").observe(queued_ns / 1e9)
            for stage, ns in zip(STAGES, ran.steps_ns):
                self._child(self._stages, name, stage).observe(ns / 1e9)

        return note

    def answered(self, found: Found, outcome: str, ns: int) -> None:
        """A request ended: ok, invalid, overload, timeout, cancelled or failed."""
        found.tally.answered(ns, success=outcome == "ok")
        self._child(self._requests, found.name, outcome).inc()
        if outcome == "ok":
            self._child(self._seconds, found.name).observe(ns / 1e9)

    def _child(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels; its own look-up takes longer than what is counted."""
        key = (metric, *labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return self._children[key]

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        text: bytes = generate_latest(self._registry)
        return text


class _Followed:
    """What cameras say of themselves at the moment of the scrape."""

    def __init__(self, cameras: Cameras) -> None:
        self._cameras = cameras

    def describe(self) -> Iterator[Any]:
        return iter(())

    def collect(self) -> Iterator[Any]:
        looks = [(camera, camera.look()) for camera in self._cameras]
        well = GaugeMetricFamily("edgeinfer_camera_well", "1 while the camera shows the present", labels=("camera",))
        newest = GaugeMetricFamily(
            "edgeinfer_camera_newest_result_age_seconds", "How old the newest result is now", labels=("camera",)
        )
        pictures = CounterMetricFamily("edgeinfer_camera_pictures", "Pictures that came", labels=("camera",))
        results = CounterMetricFamily("edgeinfer_camera_results", "Pictures that got a result", labels=("camera",))
        again = CounterMetricFamily("edgeinfer_camera_reconnects", "Connections made anew", labels=("camera",))
        told = "Pictures that got no result, by cause: newer, repeated, failed"
        dropped = CounterMetricFamily("edgeinfer_camera_dropped", told, labels=("camera", "cause"))
        for camera, look in looks:
            name = (camera.name,)
            well.add_metric(name, int(look.health.well))
            newest.add_metric(name, look.age_s)
            pictures.add_metric(name, camera.vitals.pictures)
            results.add_metric(name, camera.results)
            again.add_metric(name, camera.vitals.reconnects)
            for cause, count in camera.drops().items():
                dropped.add_metric((camera.name, cause), count)
        yield from (well, newest, pictures, results, again, dropped)


class _Present:
    """What is true at the moment of the scrape: queues, versions, sensors."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._probes: list[Any] | None = None

    def describe(self) -> Iterator[Any]:
        return iter(())

    def collect(self) -> Iterator[Any]:
        rows: list[tuple[str, str, Callable[[Any], float]]] = [
            ("edgeinfer_queue_depth", "Requests that wait", lambda version: version.station.depth),
            ("edgeinfer_queue_age_seconds", "How long the first of them has waited", lambda one: one.station.age),
            ("edgeinfer_busy_seconds", "How long the longest running batch has run", lambda one: one.station.busy),
            ("edgeinfer_model_version", "The version that is served", lambda version: version.number),
            ("edgeinfer_model_sound", "1 while the model passes its self-test", lambda one: int(not one.fault)),
        ]
        for name, told, read in rows:
            gauge = GaugeMetricFamily(name, told, labels=("model",))
            for model in list(self._repository.models.values()):
                if version := model.current:  # which the event loop may take away meanwhile
                    gauge.add_metric((model.name,), read(version))
            yield gauge
        yield from self._sensors()

    def _sensors(self) -> Iterator[Any]:
        from edgeinfer.profiling import sensors

        if self._probes is None:
            self._probes = sensors.here(gpu=machine.ordinal(self._repository.device) or 0)
        fields: dict[str, float] = {}
        for probe in self._probes:
            try:
                fields.update(probe.read())
            except Exception:  # noqa: BLE001, S112 - a sensor that fails is no reason to hide the others
                continue
        for field, (name, of_one, told) in SENSORS.items():
            if field in fields:
                yield GaugeMetricFamily(name, told, value=fields[field] * of_one)
