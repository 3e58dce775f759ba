"""The hub: models, versions, promotions, gates, approvals.

The rule that nothing reaches Production past the gates is held here a second time, by triggers, so that it does not depend
on any code path being careful:

- a version is born in stage None, and there is no other way to change a stage than along `stage_move`;
- Staging takes an open promotion whose gates all passed;
- Production takes a completed promotion with gates passed and an approval, and no rejection;
- an approver is never the version's trainer or submitter, nor who asked for the promotion;
- gate results and approvals are never changed or deleted;
- what a version is made of and where it comes from stays; only a dataset that was not known may be named later.
"""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

registry = Migrations("registry")
_DECIDED = """
SELECT p.id AS promotion_id, json_array(
  p.id, p.champion, p.requested_by, p.policy,
  v.id, v.model_id, v.version, v.format, v.artifact, v.reference, v.sample, v.inputs, v.outputs, v.features, v.run_id,
  v.dataset, v.dataset_hash, v.source, v.trained_by, v.submitted_by,
  (SELECT json_group_array(json_array(path, sha256)) FROM
    (SELECT path, sha256 FROM version_file WHERE version_id = v.id ORDER BY path)),
  (SELECT json_group_array(json_array(gate, passed, required, measured)) FROM
    (SELECT * FROM gate_result WHERE promotion_id = p.id ORDER BY gate)),
  (SELECT json_group_array(json_array(approver, decision, at_us)) FROM
    (SELECT * FROM approval WHERE promotion_id = p.id ORDER BY approver))) AS subject
FROM promotion p JOIN model_version v ON v.id = p.version_id
"""
"""What was decided about a promotion, as text: version, data, policy, gates, approvals."""


@migration(registry)
def m001_models(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE model (
          id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, purpose TEXT NOT NULL,
          created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE model_tag (
          model_id TEXT NOT NULL REFERENCES model (id), key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (model_id, key)
        ) STRICT;

        CREATE TABLE model_version (
          id TEXT PRIMARY KEY, model_id TEXT NOT NULL REFERENCES model (id), version INTEGER NOT NULL,
          stage TEXT NOT NULL DEFAULT 'None' CHECK (stage IN ('None', 'Staging', 'Production', 'Archived')),
          format TEXT NOT NULL, run_id TEXT, job_id TEXT, dataset TEXT, feature_service TEXT, features TEXT NOT NULL,
          inputs TEXT NOT NULL, outputs TEXT NOT NULL, artifact TEXT, size INTEGER NOT NULL, reference TEXT, sample TEXT,
          metrics TEXT NOT NULL, git_commit TEXT, trained_by TEXT NOT NULL, submitted_by TEXT NOT NULL,
          description TEXT NOT NULL, created_us INTEGER NOT NULL,
          UNIQUE (model_id, version)
        ) STRICT;
        CREATE UNIQUE INDEX one_in_production ON model_version (model_id) WHERE stage = 'Production';
        CREATE INDEX model_version_stage ON model_version (model_id, stage, version);
        CREATE INDEX model_version_run ON model_version (run_id) WHERE run_id IS NOT NULL;
        CREATE TABLE version_tag (
          version_id TEXT NOT NULL REFERENCES model_version (id), key TEXT NOT NULL, value TEXT NOT NULL,
          PRIMARY KEY (version_id, key)
        ) STRICT;
        CREATE TABLE model_alias (
          model_id TEXT NOT NULL REFERENCES model (id), alias TEXT NOT NULL, version INTEGER NOT NULL,
          PRIMARY KEY (model_id, alias), FOREIGN KEY (model_id, version) REFERENCES model_version (model_id, version)
        ) STRICT;

        CREATE TABLE promotion_policy (
          model_id TEXT NOT NULL REFERENCES model (id), revision INTEGER NOT NULL, policy TEXT NOT NULL,
          set_by TEXT NOT NULL, set_us INTEGER NOT NULL, PRIMARY KEY (model_id, revision)
        ) STRICT;
        CREATE TABLE promotion (
          id TEXT PRIMARY KEY, version_id TEXT NOT NULL REFERENCES model_version (id), champion INTEGER,
          state TEXT NOT NULL, requested_by TEXT NOT NULL, created_us INTEGER NOT NULL, since_us INTEGER NOT NULL,
          policy TEXT NOT NULL, step INTEGER NOT NULL DEFAULT -1, reason TEXT NOT NULL DEFAULT ''
        ) STRICT;
        CREATE INDEX promotion_version ON promotion (version_id, id);
        CREATE INDEX promotion_state ON promotion (state, id);
        CREATE TABLE gate_result (
          promotion_id TEXT NOT NULL REFERENCES promotion (id), gate TEXT NOT NULL, passed INTEGER NOT NULL,
          required TEXT NOT NULL, measured TEXT NOT NULL, at_us INTEGER NOT NULL, PRIMARY KEY (promotion_id, gate)
        ) STRICT;
        CREATE TABLE approval (
          promotion_id TEXT NOT NULL REFERENCES promotion (id), approver TEXT NOT NULL,
          decision TEXT NOT NULL CHECK (decision IN ('approve', 'reject')), comment TEXT NOT NULL, at_us INTEGER NOT NULL,
          PRIMARY KEY (promotion_id, approver)
        ) STRICT;

        CREATE TABLE stage_move (source TEXT NOT NULL, target TEXT NOT NULL, PRIMARY KEY (source, target)) STRICT;
        INSERT INTO stage_move VALUES
          ('None', 'Staging'), ('None', 'Archived'), ('Staging', 'None'), ('Staging', 'Production'), ('Staging', 'Archived'),
          ('Production', 'Archived'), ('Archived', 'None');

        CREATE TRIGGER version_born BEFORE INSERT ON model_version WHEN NEW.stage <> 'None'
        BEGIN SELECT RAISE(ABORT, 'a version begins in stage None'); END;

        CREATE TRIGGER stage_moves BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage <> OLD.stage
          AND NOT EXISTS (SELECT 1 FROM stage_move WHERE source = OLD.stage AND target = NEW.stage)
        BEGIN SELECT RAISE(ABORT, 'there is no such move between stages'); END;

        CREATE TRIGGER staging_takes_gates BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Staging' AND OLD.stage <> 'Staging' AND NOT EXISTS (
          SELECT 1 FROM promotion p WHERE p.version_id = NEW.id AND p.state IN ('shadow', 'waiting_approval')
            AND EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id)
            AND NOT EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id AND g.passed = 0))
        BEGIN SELECT RAISE(ABORT, 'Staging takes a promotion whose gates all passed'); END;

        CREATE TRIGGER production_takes_approval BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Production' AND OLD.stage <> 'Production' AND NOT EXISTS (
          SELECT 1 FROM promotion p WHERE p.version_id = NEW.id AND p.state = 'completed'
            AND EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id)
            AND NOT EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id AND g.passed = 0)
            AND EXISTS (SELECT 1 FROM approval a WHERE a.promotion_id = p.id AND a.decision = 'approve')
            AND NOT EXISTS (SELECT 1 FROM approval a WHERE a.promotion_id = p.id AND a.decision = 'reject'))
        BEGIN SELECT RAISE(ABORT, 'Production takes passed gates and an approval'); END;

        CREATE TRIGGER approver_is_another BEFORE INSERT ON approval
        WHEN EXISTS (
          SELECT 1 FROM promotion p JOIN model_version v ON v.id = p.version_id WHERE p.id = NEW.promotion_id
            AND NEW.approver IN (v.trained_by, v.submitted_by, p.requested_by))
        BEGIN SELECT RAISE(ABORT, 'the approver trained, submitted or proposed it'); END;

        CREATE TRIGGER who_made_it_stays BEFORE UPDATE OF trained_by, submitted_by, artifact, run_id, dataset ON model_version
        BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        CREATE TRIGGER promotion_requester_stays BEFORE UPDATE OF requested_by, version_id ON promotion
        BEGIN SELECT RAISE(ABORT, 'a promotion keeps its version and its requester'); END;
        CREATE TRIGGER gate_result_stays BEFORE UPDATE ON gate_result
        BEGIN SELECT RAISE(ABORT, 'a gate result is immutable'); END;
        CREATE TRIGGER gate_result_kept BEFORE DELETE ON gate_result
        BEGIN SELECT RAISE(ABORT, 'a gate result is kept'); END;
        CREATE TRIGGER approval_stays BEFORE UPDATE ON approval
        BEGIN SELECT RAISE(ABORT, 'an approval is immutable'); END;
        CREATE TRIGGER approval_kept BEFORE DELETE ON approval
        BEGIN SELECT RAISE(ABORT, 'an approval is kept'); END;
        """,
    )


@migration(registry)
def m002_everything_registers(db: Database) -> None:
    """Versions of any kind with their files, sources and facts; names that change; the history of stages and aliases."""
    run_script(
        db,
        """
        ALTER TABLE model ADD COLUMN updated_us INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE model ADD COLUMN expires_us INTEGER;
        ALTER TABLE model ADD COLUMN deleted_us INTEGER;
        UPDATE model SET updated_us = created_us;
        CREATE TABLE former_name (
          model_id TEXT NOT NULL REFERENCES model (id), name TEXT NOT NULL, until_us INTEGER NOT NULL,
          PRIMARY KEY (model_id, until_us)
        ) STRICT;

        ALTER TABLE model_version ADD COLUMN source TEXT;
        ALTER TABLE model_version ADD COLUMN run_link TEXT NOT NULL DEFAULT '';
        ALTER TABLE model_version ADD COLUMN logged_model TEXT;
        ALTER TABLE model_version ADD COLUMN lineage TEXT NOT NULL DEFAULT 'recorded';
        ALTER TABLE model_version ADD COLUMN unservable TEXT NOT NULL DEFAULT '';
        ALTER TABLE model_version ADD COLUMN updated_us INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE model_version ADD COLUMN deleted_us INTEGER;
        UPDATE model_version SET updated_us = created_us;
        CREATE INDEX model_version_source ON model_version (source) WHERE source IS NOT NULL;
        CREATE TABLE version_file (
          version_id TEXT NOT NULL REFERENCES model_version (id), path TEXT NOT NULL, sha256 TEXT NOT NULL,
          size INTEGER NOT NULL, PRIMARY KEY (version_id, path)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE stage_change (
          id INTEGER PRIMARY KEY, version_id TEXT NOT NULL REFERENCES model_version (id), stage TEXT NOT NULL,
          actor TEXT NOT NULL, reason TEXT NOT NULL, promotion_id TEXT REFERENCES promotion (id), at_us INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX stage_change_version ON stage_change (version_id, id);
        CREATE TABLE alias_change (
          id INTEGER PRIMARY KEY, model_id TEXT NOT NULL REFERENCES model (id), alias TEXT NOT NULL, version INTEGER,
          actor TEXT NOT NULL, at_us INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX alias_change_model ON alias_change (model_id, id);
        INSERT INTO stage_change (version_id, stage, actor, reason, promotion_id, at_us)
          SELECT v.id, coalesce(json_extract(e.data, '$.stage'), 'Archived'), e.actor, '',
            (SELECT p.id FROM promotion p WHERE p.version_id = v.id AND p.created_us <= e.at_us ORDER BY p.id DESC LIMIT 1),
            e.at_us
          FROM event e JOIN model m JOIN model_version v ON v.model_id = m.id
            AND e.subject = 'model:' || m.name || '/' || v.version
          WHERE e.type IN ('model.stage', 'model.archived') ORDER BY e.id;
        INSERT INTO alias_change (model_id, alias, version, actor, at_us)
          SELECT a.model_id, a.alias, a.version, m.owner, m.created_us FROM model_alias a JOIN model m ON m.id = a.model_id;

        DROP TRIGGER who_made_it_stays;
        CREATE TRIGGER who_made_it_stays
        BEFORE UPDATE OF trained_by, submitted_by, artifact, run_id, source, logged_model, lineage, model_id, version
        ON model_version BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        CREATE TRIGGER dataset_stays BEFORE UPDATE OF dataset ON model_version WHEN OLD.dataset IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        CREATE TRIGGER version_file_stays BEFORE UPDATE ON version_file
        BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        CREATE TRIGGER version_file_kept BEFORE DELETE ON version_file
        WHEN NOT EXISTS (SELECT 1 FROM model_version WHERE id = OLD.version_id AND deleted_us IS NOT NULL)
        BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        CREATE TRIGGER production_is_not_deleted BEFORE UPDATE OF deleted_us ON model_version
        WHEN NEW.deleted_us IS NOT NULL AND OLD.stage = 'Production'
        BEGIN SELECT RAISE(ABORT, 'a version in Production is not deleted'); END;
        CREATE TRIGGER stage_change_stays BEFORE UPDATE ON stage_change
        BEGIN SELECT RAISE(ABORT, 'the history of stages is never changed'); END;
        CREATE TRIGGER stage_change_kept BEFORE DELETE ON stage_change
        BEGIN SELECT RAISE(ABORT, 'the history of stages is kept'); END;
        CREATE TRIGGER alias_change_stays BEFORE UPDATE ON alias_change
        BEGIN SELECT RAISE(ABORT, 'the history of aliases is never changed'); END;
        CREATE TRIGGER alias_change_kept BEFORE DELETE ON alias_change
        BEGIN SELECT RAISE(ABORT, 'the history of aliases is kept'); END;
        """,
    )


@migration(registry)
def m003_decisions(db: Database) -> None:
    """Production takes a decision that is bound by hash to the version, its data and its policy (see `decisions.py`)."""
    run_script(
        db,
        """
        ALTER TABLE model_version ADD COLUMN dataset_hash TEXT;
        CREATE TABLE decision (
          promotion_id TEXT PRIMARY KEY REFERENCES promotion (id), digest TEXT NOT NULL, at_us INTEGER NOT NULL
        ) STRICT;
        CREATE VIEW decided AS
        """
        + _DECIDED
        + """;
        INSERT INTO decision SELECT p.id, sha256(s.subject), p.since_us FROM promotion p JOIN decided s ON s.promotion_id = p.id
          WHERE EXISTS (SELECT 1 FROM approval a WHERE a.promotion_id = p.id AND a.decision = 'approve');
        CREATE TRIGGER production_takes_a_decision BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Production' AND OLD.stage <> 'Production' AND NOT EXISTS (
          SELECT 1 FROM promotion p JOIN decided s ON s.promotion_id = p.id JOIN decision d ON d.promotion_id = p.id
          WHERE p.version_id = NEW.id AND p.state = 'completed' AND d.digest = sha256(s.subject))
        BEGIN SELECT RAISE(ABORT, 'what was decided about is not what is there'); END;
        CREATE TRIGGER decision_stays BEFORE UPDATE ON decision
        BEGIN SELECT RAISE(ABORT, 'a decision is immutable'); END;
        CREATE TRIGGER decision_kept BEFORE DELETE ON decision
        BEGIN SELECT RAISE(ABORT, 'a decision is kept'); END;
        CREATE TRIGGER dataset_hash_stays BEFORE UPDATE OF dataset_hash ON model_version WHEN OLD.dataset_hash IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a version is immutable'); END;
        """,
    )


@migration(registry)
def m004_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(registry)
def m005_removal(db: Database) -> None:
    """A version that was deleted long ago loses its files, and can be restored no more (see `retention`)."""
    run_script(
        db,
        """
        ALTER TABLE model ADD COLUMN removed_us INTEGER;
        ALTER TABLE model_version ADD COLUMN removed_us INTEGER;
        """,
    )


@migration(registry)
def m006_webhooks(db: Database) -> None:
    """Who is told of what happens to models, and how far in this file's events each has come (see `webhooks`)."""
    run_script(
        db,
        """
        CREATE TABLE webhook (
          id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, url TEXT NOT NULL, events TEXT NOT NULL,
          signed INTEGER NOT NULL, active INTEGER NOT NULL, owner TEXT NOT NULL, created_us INTEGER NOT NULL,
          updated_us INTEGER NOT NULL, deleted_us INTEGER, seq INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
          next_us INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL DEFAULT '', lost INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        """,
    )


@migration(registry)
def m007_serving(db: Database) -> None:
    """How each model is served: every revision, by whom and when."""
    run_script(
        db,
        """
        CREATE TABLE serving_config (
          model_id TEXT NOT NULL REFERENCES model (id), revision INTEGER NOT NULL, config TEXT NOT NULL,
          actor TEXT NOT NULL, at_us INTEGER NOT NULL, PRIMARY KEY (model_id, revision)
        ) STRICT;
        """,
    )


@migration(registry)
def m008_measurements(db: Database) -> None:
    """What was measured of a version: how quick it is, how far from its source model."""
    run_script(
        db,
        """
        CREATE TABLE version_measurement (
          version_id TEXT NOT NULL REFERENCES model_version (id), kind TEXT NOT NULL, found TEXT NOT NULL,
          actor TEXT NOT NULL, at_us INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX version_measurement_latest ON version_measurement (version_id, kind, at_us);
        CREATE TRIGGER version_measurement_stays BEFORE UPDATE ON version_measurement
        BEGIN SELECT RAISE(ABORT, 'a measurement is immutable'); END;
        """,
    )
