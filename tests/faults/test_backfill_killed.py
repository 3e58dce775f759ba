"""A backfill that is killed goes on at its part: nothing is lost, nothing is doubled, and what is done is not done again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mlbox.store.features import changes
from tests.store.test_features import REF, House, moment

ENTITIES, PARTS = 20_000, 40
CHILD = """
import sys
from pathlib import Path
from mlbox.store.features import changes
from tests.store.test_features import House, moment

changes.PART_ROWS = {rows}
house = House(Path(sys.argv[1]))
house.clock.advance(moment(10))
put = house.online.put

def told(*args, **options):
    print(*house.store.progress()["spend@v1"], flush=True)
    return put(*args, **options)

house.online.put = told
print(house.store.materialize("spend"), flush=True)
"""


def test_a_killed_backfill_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PART_ROWS", ENTITIES // PARTS)
    house = House(tmp_path)
    store = house.with_sales()
    house.clock.advance(moment(10))
    rows = pa.table(
        {
            "who": [f"u{number}" for number in range(ENTITIES)],
            "shop": pa.array([1] * ENTITIES, pa.int64()),
            "happened": [moment(1)] * ENTITIES,
            "known": [moment(1)] * ENTITIES,
            "amount": [float(number) for number in range(ENTITIES)],
        }
    )
    store.append("sales", rows, actor="ann")
    store.refresh(store.view("spend"))
    house.close()

    begun = 0
    for stop in (5, 12):
        script = CHILD.format(rows=ENTITIES // PARTS)
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            first, parts = map(int, line.split())
            assert parts == PARTS
            assert first >= begun - 1 if begun else first == 0, "a part that was done is done again"
            while int(line.split()[0]) < stop:
                line = child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        begun = stop

    house = House(tmp_path)
    house.clock.advance(moment(10))
    assert 0 < len(house.online) < ENTITIES
    left = house.store.materialize("spend")
    assert left <= ENTITIES * (PARTS - begun + 1) // PARTS * 1.2, "what was done is done again"
    assert len(house.online) == ENTITIES
    entities = [{"who": f"u{number}", "shop": 1} for number in range(ENTITIES)]
    found = house.store.online_features([REF], entities)
    assert [row.values[REF] for row in found] == [float(number) for number in range(ENTITIES)]
    assert house.store.materialize("spend") == 0
    house.close()
