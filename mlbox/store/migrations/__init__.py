"""The schemas of all SQLite files, one module each, as named, forward-only migrations.

A released migration is never edited: a change is a new function at the end of its set, and `datadir.LAYOUT_VERSION` goes
up by one.
"""

from mlbox.store.migrations.access import access
from mlbox.store.migrations.datasets import datasets
from mlbox.store.migrations.features import features
from mlbox.store.migrations.jobs import jobs
from mlbox.store.migrations.monitoring import monitoring
from mlbox.store.migrations.registry_rollouts import registry
from mlbox.store.migrations.secrets import secrets
from mlbox.store.migrations.tracking import tracking

__all__ = ["access", "datasets", "features", "jobs", "monitoring", "registry", "secrets", "tracking"]
