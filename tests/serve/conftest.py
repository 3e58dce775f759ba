from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from tests.serve.house import House


@pytest.fixture
def serving(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    built = House(tmp_path, clock, bus)
    yield built
    built.close()
