"""Runs, features, datasets and labels."""

from __future__ import annotations

import contextlib

from mlbox.errors import NotFound
from mlbox.records import DatasetInput
from mlbox.store import migrations
from mlbox.store.access.quota import Quota
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.datasets.dvc import DvcObjects
from mlbox.store.datasets.dvc_versions import DvcVersions
from mlbox.store.datasets.feature_profile import Profiles
from mlbox.store.features.definitions import FeatureDefinitions
from mlbox.store.features.feature_catalogue import FeatureCatalogue
from mlbox.store.features.folders import Folders
from mlbox.store.features.online import Online
from mlbox.store.labels.history import LabelHistory
from mlbox.store.offline.offline import Offline
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.sandbox.ingest import Uploads
from mlbox.store.tracking.logged_models import LoggedModels
from mlbox.store.tracking.run_inputs import input_of
from mlbox.store.tracking.run_views import RunViews
from mlbox.store.tracking.run_words import RunWords
from mlbox.store.tracking.runsearch import RunSearch
from mlbox.store.tracking.tracking import Tracker
from mlbox.web.box.foundation import Foundation


class Data(Foundation):
    """What people put in, and what they make of it."""

    def _open_tracking(self, opening: contextlib.ExitStack) -> None:
        self.artifacts = Artifacts(self.data_dir.root / "artifacts")
        ModelFolders(self.artifacts).clear()
        self._stores["artifacts"] = self.artifacts.check
        db = self._open(opening, "tracking", migrations.tracking)
        self.tracker = Tracker(db, self.artifacts, self.clock)
        self.experiments = self.tracker.groups
        self.logged_models = LoggedModels(db)
        self.run_search = RunSearch(self.tracker, self.experiments)
        self.run_words = RunWords(self.tracker, self.experiments)
        self.run_views = RunViews(db)

    def _open_features(self, opening: contextlib.ExitStack) -> None:
        root, settings = self.data_dir.root, self.settings
        self.offline = Offline(
            root / "offline.duckdb",
            memory=settings.duckdb_memory,
            temp=settings.duckdb_temp,
            seconds=settings.query_seconds,
        )
        opening.callback(self.offline.close)
        self.online = Online(root / "online")
        opening.callback(self.online.close)
        self._stores |= {"offline": self.offline.check, "online": self.online.check}
        self.uploads = Uploads(
            root / "uploads",
            most_bytes=settings.max_upload,
            seconds=settings.upload_seconds,
            memory_mb=settings.upload_memory_mb,
        )
        self.features = FeatureDefinitions(
            self._open(opening, "features", migrations.features),
            self.offline,
            self.online,
            self.clock,
            max_sql=settings.max_sql,
            folders=Folders.parse(settings.source_folders),
        )

    def _open_datasets(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "datasets", migrations.datasets)
        self.labels = LabelHistory(db, self.offline, self.clock, sources=self.features)
        self.features.check_open = self.labels.check_open
        self.datasets = Datasets(
            db,
            self.offline,
            self.features,
            self.labels,
            self.artifacts,
            self.clock,
            seconds=self.settings.build_seconds,
        )
        self.tracker.input_of = self._input_of
        self.dvc = DvcObjects(db, self.datasets, self.artifacts)
        self.dvc_versions = DvcVersions(
            self.dvc,
            self.datasets,
            self.artifacts,
            self.uploads,
            self.teams,
            self.clock,
            most_bytes=self.settings.max_upload,
        )
        self.catalogue = FeatureCatalogue(self._databases["features"], self.features, self.teams.team_of)
        self.profiles = Profiles(self.features, self.offline, self.datasets, self.artifacts)
        self.quota = Quota(
            self._databases["tracking"], db, self.teams.team_of, self.clock, allowed=self.settings.upload_quota
        )

    def _input_of(self, ref: str) -> DatasetInput | None:
        try:
            return input_of(self.datasets.version(ref), self.url)
        except NotFound:  # removed since it was named; what reads it says so
            return None
