"""Files that land in a folder are taken once each, whole, and only out of that folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlbox.errors import InvalidInput, NotFound
from mlbox.serve.features.landing import Landing
from mlbox.store.features.folders import Folders
from mlbox.store.sandbox.ingest import Uploads
from tests.store.test_features import COLUMNS, House, moment, sales


class Fed(House):
    """A feature store with a source that a folder feeds."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data")
        self.root = folder / "landing"
        (self.root / "orders").mkdir(parents=True)
        self.store.folders = Folders.parse([f"landing={self.root}"])
        self.store.add_source("sales", COLUMNS, "happened", "known", folder="landing/orders/*", actor="ann")
        self.clock.advance(moment(9))
        self.landing = self.anew()

    def anew(self) -> Landing:
        return Landing(self.store, Uploads(self.root.parent / "uploads", most_bytes=1 << 20))

    def land(self, name: str, table: pa.Table) -> Path:
        path = self.root / "orders" / name
        pq.write_table(table, path)
        return path

    def rows(self) -> int:
        return self.store.source("sales").rows


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Fed]:
    (tmp_path / "data").mkdir()
    built = Fed(tmp_path)
    yield built
    built.close()


def test_a_file_is_taken_once_and_when_it_has_stopped_growing(house: Fed) -> None:
    house.land("july.parquet", sales(("a", 1, 1, 1, 1.0), ("b", 1, 2, 2, 2.0)))
    assert [house.landing.look(), house.rows()] == [0, 0]
    assert [house.landing.look(), house.rows()] == [1, 2]
    assert [house.landing.look(), house.anew().look(), house.rows()] == [0, 0, 2]
    later = house.anew()
    house.land("august.parquet", sales(("a", 1, 3, 3, 3.0)))
    assert [later.look(), later.look(), later.look(), house.rows()] == [0, 1, 0, 3]
    files = later.files("sales")
    assert [(one.path, one.rows, one.error) for one in files] == [
        ("landing/orders/august.parquet", 1, ""),
        ("landing/orders/july.parquet", 2, ""),
    ]


def test_a_half_written_file_is_told_of_once_and_taken_when_it_is_whole(house: Fed) -> None:
    path = house.land("july.parquet", sales(("a", 1, 1, 1, 1.0)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [house.landing.look() for _ in range(4)] == [0, 0, 0, 0]
    (found,) = house.landing.files("sales")
    assert "Parquet" in found.error
    refused = [event for event in house.db.all("SELECT * FROM event") if event["type"] == "source.file_refused"]
    assert len(refused) == 1
    path.write_bytes(whole)
    assert [house.landing.look(), house.landing.look(), house.rows()] == [0, 1, 1]
    assert [one.error for one in house.landing.files("sales")] == [""]


def test_a_file_that_changes_after_it_was_taken_is_not_taken_again(house: Fed) -> None:
    house.land("july.parquet", sales(("a", 1, 1, 1, 1.0)))
    house.landing.look()
    house.landing.look()
    house.land("july.parquet", sales(("a", 1, 1, 1, 1.0), ("b", 1, 2, 2, 2.0)))
    assert [house.landing.look(), house.landing.look(), house.rows()] == [0, 0, 1]
    (found,) = house.landing.files("sales")
    assert "changed after it was taken" in found.error


def test_rows_that_do_not_fit_are_refused_with_column_and_row(house: Fed) -> None:
    (house.root / "orders" / "july.csv").write_text("who,shop,happened,known,amount\na,1,2026-01-01,2026-01-01,x\n")
    house.landing.look()
    house.landing.look()
    (found,) = house.landing.files("sales")
    assert "amount" in found.error
    assert house.rows() == 0


def test_what_is_not_in_the_folder_is_not_reached(house: Fed, tmp_path: Path) -> None:
    outside = tmp_path / "secret.parquet"
    pq.write_table(sales(("a", 1, 1, 1, 1.0)), outside)
    (house.root / "orders" / "link.parquet").symlink_to(outside)
    os.mkfifo(house.root / "orders" / "pipe.csv")
    (house.root / "orders" / "loop.csv").symlink_to("loop.csv")
    for name in (".hidden.parquet", "_part.parquet", "july.parquet.tmp"):
        house.land(name, sales(("a", 1, 1, 1, 1.0)))
    assert [house.landing.look(), house.landing.look(), house.landing.files("sales")] == [0, 0, []]


@pytest.mark.parametrize(
    "pattern", ["elsewhere/*.csv", "landing", "landing/../x.csv", "/etc/*.csv", "landing/**/*.csv", "..", "landing/"]
)
def test_a_pattern_begins_with_a_named_folder_and_stays_in_it(house: Fed, pattern: str) -> None:
    with pytest.raises(InvalidInput, match=r"folder|pattern"):
        house.store.add_source("other", COLUMNS, "happened", "known", folder=pattern, actor="ann")


@pytest.mark.parametrize("entry", ["landing", "a/b=/srv", "landing=relative", "=/srv"])
def test_a_setting_that_names_no_folder_is_refused(entry: str) -> None:
    with pytest.raises(InvalidInput, match="source_folders"):
        Folders.parse([entry])


def test_another_folder_is_noted_and_a_source_that_is_not_there_has_no_files(house: Fed) -> None:
    changed = house.store.add_source("sales", COLUMNS, "happened", "known", folder="landing/*.csv", actor="ann")
    assert changed.folder == "landing/*.csv"
    with pytest.raises(NotFound):
        house.landing.files("nothing")
