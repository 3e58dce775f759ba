"""Drift results and alerts."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store import outbox
from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script
from mlbox.store.monitoring import prediction_rows, rule_book, silences, sure_time

monitoring = Migrations("monitoring")


@migration(monitoring)
def m001_drift_and_alerts(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE drift (
          id INTEGER PRIMARY KEY, model TEXT NOT NULL, feature TEXT NOT NULL, check_id TEXT NOT NULL, at_us INTEGER NOT NULL,
          result TEXT NOT NULL
        ) STRICT;
        CREATE INDEX drift_feature ON drift (model, feature, id);
        CREATE INDEX drift_check ON drift (model, check_id);

        CREATE TABLE alert (
          id TEXT PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, state TEXT NOT NULL, summary TEXT NOT NULL,
          value REAL, fired_us INTEGER NOT NULL, resolved_us INTEGER
        ) STRICT;
        CREATE UNIQUE INDEX alert_firing ON alert (name, labels) WHERE state = 'firing';
        CREATE INDEX alert_state ON alert (state, id);
        """,
    )


@migration(monitoring)
def m002_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(monitoring)
def m003_skew(db: Database) -> None:
    """How far what was served agrees with what the offline history says of the same moments."""
    run_script(
        db,
        """
        CREATE TABLE skew (
          id INTEGER PRIMARY KEY, model TEXT NOT NULL, feature TEXT NOT NULL, check_id TEXT NOT NULL, at_us INTEGER NOT NULL,
          result TEXT NOT NULL
        ) STRICT;
        CREATE INDEX skew_feature ON skew (model, feature, id);
        CREATE INDEX skew_check ON skew (model, check_id);
        """,
    )


@migration(monitoring)
def m004_notices(db: Database) -> None:
    """Alerts that wait until they have lasted; who was told of which; silences; what is to be sent."""
    run_script(
        db,
        outbox.TABLE
        + silences.TABLE
        + """
        CREATE UNIQUE INDEX alert_pending ON alert (name, labels) WHERE state = 'pending';
        CREATE TABLE notice (
          alert_id TEXT NOT NULL, channel TEXT NOT NULL, state TEXT NOT NULL, at_us INTEGER NOT NULL,
          PRIMARY KEY (alert_id, channel)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX notice_firing ON notice (alert_id) WHERE state = 'firing';
        """,
    )


@migration(monitoring)
def m005_business(db: Database) -> None:
    """What came of predictions, in the business's own numbers."""
    run_script(
        db,
        """
        CREATE TABLE business (
          id INTEGER PRIMARY KEY, model TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, at_us INTEGER NOT NULL,
          value REAL NOT NULL, prediction_id TEXT
        ) STRICT;
        CREATE UNIQUE INDEX business_prediction ON business (model, name, prediction_id) WHERE prediction_id IS NOT NULL;
        CREATE UNIQUE INDEX business_moment ON business (model, name, version, at_us) WHERE prediction_id IS NULL;
        CREATE INDEX business_series ON business (model, name, version, at_us, value);
        """,
    )


@migration(monitoring)
def m006_rules(db: Database) -> None:
    """Rules of alerts as they are written, and as they were right last."""
    run_script(db, rule_book.TABLE)


@migration(monitoring)
def m007_prediction_log(db: Database) -> None:
    """Which predictions are held, how long they are kept, and what was removed of them."""
    run_script(db, prediction_rows.TABLES)


@migration(monitoring)
def m008_sampling(db: Database) -> None:
    """Which predictions of a model are kept."""
    run_script(db, prediction_rows.SAMPLING_TABLE)


@migration(monitoring)
def m009_clock(db: Database) -> None:
    """When the clock was looked at last, so that a leap is seen."""
    run_script(db, sure_time.TABLE)
