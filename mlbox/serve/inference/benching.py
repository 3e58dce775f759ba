"""Benches of versions: measured in a process of their own, and kept with the version."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from mlbox.clock import Clock
from mlbox.errors import InvalidInput
from mlbox.records import Bench
from mlbox.serve.inference.check import bench_onnx
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry.measurements import Measurements
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.policies import MOST_CONCURRENCY, MOST_ROWS
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.serving import ServingConfigs

ROWS, CONCURRENCY = (1, 8, 32), (1, 4, 16)
MOST_FIGURES = 25


class Benches:
    """Measures versions, whatever stage they are in: none is loaded in the server for it."""

    def __init__(
        self,
        registry: Registry,
        configs: ServingConfigs,
        measurements: Measurements,
        artifacts: Artifacts,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._configs = configs
        self._measurements = measurements
        self._folders = ModelFolders(artifacts)
        self._clock = clock

    def run(
        self,
        model: str,
        number: int,
        *,
        actor: str,
        rows: Sequence[int] = (),
        concurrency: Sequence[int] = (),
    ) -> Bench:
        """Measure a version and keep what came of it; raises InvalidInput for one that cannot be served, and for odd sizes."""
        version = self._registry.version(model, number)
        rows, concurrency = tuple(rows) or ROWS, tuple(concurrency) or CONCURRENCY
        _check(rows, "rows", MOST_ROWS)
        _check(concurrency, "concurrency", MOST_CONCURRENCY)
        if len(rows) * len(concurrency) > MOST_FIGURES:
            raise InvalidInput(f"More than {MOST_FIGURES} figures.", hint="Ask for fewer sizes.", field="rows")
        if version.artifact is None or not version.servable:
            raise InvalidInput(
                f"{version.ref} cannot be served: {version.unservable}", hint="Register an ONNX file.", field="version"
            )
        config = self._configs.latest(model)
        path = self._folders.of_version(self._registry, version)
        provider, figures = bench_onnx(
            path, config=config, rows=rows, concurrency=concurrency, width=len(version.features)
        )
        bench = Bench(
            model=model,
            version=number,
            at=self._clock.real(),
            by=actor,
            provider=provider,
            cpus=os.cpu_count() or 1,
            config=config,
            figures=figures,
        )
        self._measurements.add(version, "bench", msgspec.to_builtins(bench), actor=actor)
        return bench

    def latest(self, model: str, number: int) -> Bench | None:
        """What was measured last."""
        found = self._measurements.latest(self._registry.version(model, number), "bench")
        return msgspec.convert(found, type=Bench) if found is not None else None


def _check(sizes: Sequence[int], field: str, most: int) -> None:
    wrong = next((size for size in sizes if not 1 <= size <= most), None)
    if wrong is not None:
        raise InvalidInput(f"{field} is {wrong}; 1 to {most:,} are taken.", hint="Ask for fewer.", field=field)
