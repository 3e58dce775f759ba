"""The hub, continued: how versions are promoted since canaries are judged by evidence."""

from sqlite_utils import Database

from mlbox.store import outbox
from mlbox.store.migrations.base import migration, run_script
from mlbox.store.migrations.registry import registry

__all__ = ["registry"]


@migration(registry)
def m009_rollouts(db: Database) -> None:
    """What canaries are held for, what every decision about their traffic was made from, and evidence that outlives a restart."""
    run_script(
        db,
        """
        ALTER TABLE promotion ADD COLUMN hold TEXT NOT NULL DEFAULT '';
        ALTER TABLE promotion ADD COLUMN hold_us INTEGER;
        CREATE TABLE rollout_decision (
          id TEXT PRIMARY KEY, promotion_id TEXT NOT NULL REFERENCES promotion (id), decision TEXT NOT NULL
        ) STRICT;
        CREATE INDEX rollout_decision_promotion ON rollout_decision (promotion_id, id);
        CREATE TABLE rollout_evidence (
          promotion_id TEXT PRIMARY KEY REFERENCES promotion (id), samples TEXT NOT NULL
        ) STRICT;
        CREATE TRIGGER rollout_decision_stays BEFORE UPDATE ON rollout_decision
        BEGIN SELECT RAISE(ABORT, 'a decision is immutable'); END;
        CREATE TRIGGER rollout_decision_kept BEFORE DELETE ON rollout_decision
        BEGIN SELECT RAISE(ABORT, 'a decision is kept'); END;
        """,
    )


@migration(registry)
def m010_reinstatement(db: Database) -> None:
    """An archived version may go back to Production; the other triggers still ask for its completed promotion and decision."""
    run_script(db, "INSERT INTO stage_move VALUES ('Archived', 'Production');")


@migration(registry)
def m011_approvals(db: Database) -> None:
    """What the approver looked at is kept; approvals are as many, and of those, as the promotion's policy says."""
    run_script(
        db,
        """
        CREATE TABLE promotion_evidence (
          promotion_id TEXT NOT NULL REFERENCES promotion (id), kind TEXT NOT NULL, found TEXT NOT NULL, at_us INTEGER NOT NULL,
          PRIMARY KEY (promotion_id, kind)
        ) STRICT;
        CREATE TRIGGER promotion_evidence_stays BEFORE UPDATE ON promotion_evidence
        BEGIN SELECT RAISE(ABORT, 'evidence is immutable'); END;
        CREATE TRIGGER promotion_evidence_kept BEFORE DELETE ON promotion_evidence
        BEGIN SELECT RAISE(ABORT, 'evidence is kept'); END;
        ALTER TABLE approval ADD COLUMN digest TEXT NOT NULL DEFAULT '';
        CREATE TRIGGER production_takes_all_approvals BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Production' AND OLD.stage <> 'Production' AND NOT EXISTS (
          SELECT 1 FROM promotion p WHERE p.version_id = NEW.id AND p.state = 'completed'
            AND (SELECT count(*) FROM approval a WHERE a.promotion_id = p.id AND a.decision = 'approve')
              >= coalesce(json_extract(p.policy, '$.approvals'), 1))
        BEGIN SELECT RAISE(ABORT, 'Production takes as many approvals as the policy says'); END;
        CREATE TRIGGER approver_is_a_reviewer BEFORE INSERT ON approval
        WHEN EXISTS (
          SELECT 1 FROM promotion p WHERE p.id = NEW.promotion_id
            AND json_array_length(coalesce(json_extract(p.policy, '$.reviewers'), '[]')) > 0
            AND NEW.approver NOT IN (SELECT value FROM json_each(p.policy, '$.reviewers')))
        BEGIN SELECT RAISE(ABORT, 'the policy names other reviewers'); END;
        """,
    )


@migration(registry)
def m012_quarantine(db: Database) -> None:
    """Versions that ended the processes which ran them, and may not run until an admin lets them."""
    run_script(
        db,
        """
        CREATE TABLE version_quarantine (
          version_id TEXT PRIMARY KEY REFERENCES model_version (id), reason TEXT NOT NULL, at_us INTEGER NOT NULL
        ) STRICT;
        """,
    )


@migration(registry)
def m013_cards(db: Database) -> None:
    """What people write into model cards, every revision; and of which expiry they were reminded."""
    run_script(
        db,
        """
        CREATE TABLE model_card (
          model_id TEXT NOT NULL REFERENCES model (id), revision INTEGER NOT NULL, parts TEXT NOT NULL, actor TEXT NOT NULL,
          at_us INTEGER NOT NULL, PRIMARY KEY (model_id, revision)
        ) STRICT;
        CREATE TRIGGER model_card_stays BEFORE UPDATE ON model_card
        BEGIN SELECT RAISE(ABORT, 'a revision of a card is immutable'); END;
        CREATE TRIGGER model_card_kept BEFORE DELETE ON model_card
        BEGIN SELECT RAISE(ABORT, 'the revisions of a card are kept'); END;
        ALTER TABLE model ADD COLUMN reminded TEXT NOT NULL DEFAULT '';
        """,
    )


@migration(registry)
def m014_gate_commands(db: Database) -> None:
    """The jobs of commands that judge a version; what a policy registers must have passed before Staging and Production."""
    run_script(
        db,
        """
        CREATE TABLE gate_run (
          job_id TEXT PRIMARY KEY, promotion_id TEXT NOT NULL REFERENCES promotion (id), gate TEXT NOT NULL,
          at_us INTEGER NOT NULL, requests INTEGER NOT NULL DEFAULT 0, requests_from TEXT NOT NULL DEFAULT '',
          UNIQUE (promotion_id, gate)
        ) STRICT;
        CREATE TRIGGER gate_run_stays BEFORE UPDATE OF job_id, promotion_id, gate ON gate_run
        BEGIN SELECT RAISE(ABORT, 'a gate keeps its job'); END;
        CREATE TRIGGER gate_run_kept BEFORE DELETE ON gate_run
        BEGIN SELECT RAISE(ABORT, 'a gate keeps its job'); END;
        DROP TRIGGER staging_takes_gates;
        CREATE TRIGGER staging_takes_gates BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Staging' AND OLD.stage <> 'Staging' AND NOT EXISTS (
          SELECT 1 FROM promotion p WHERE p.version_id = NEW.id AND p.state IN ('integration', 'shadow', 'waiting_approval')
            AND EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id)
            AND NOT EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id AND g.passed = 0)
            AND (json_extract(p.policy, '$.test') IS NULL
              OR EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id AND g.gate = 'test')))
        BEGIN SELECT RAISE(ABORT, 'Staging takes a promotion whose gates all passed'); END;
        CREATE TRIGGER production_takes_integration BEFORE UPDATE OF stage ON model_version
        WHEN NEW.stage = 'Production' AND OLD.stage <> 'Production' AND NEW.format = 'onnx' AND NOT EXISTS (
          SELECT 1 FROM promotion p WHERE p.version_id = NEW.id AND p.state = 'completed'
            AND (json_extract(p.policy, '$.integration') IS NULL
              OR EXISTS (SELECT 1 FROM gate_result g WHERE g.promotion_id = p.id AND g.gate = 'integration')))
        BEGIN SELECT RAISE(ABORT, 'Production takes a passed integration command'); END;
        """,
    )


@migration(registry)
def m015_told(db: Database) -> None:
    """What people are told of promotions, and what was delivered to webhooks."""
    run_script(
        db,
        outbox.TABLE
        + """
        ALTER TABLE promotion ADD COLUMN reminded INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE webhook_delivery (
          webhook_id TEXT NOT NULL REFERENCES webhook (id), event_id TEXT NOT NULL, seq INTEGER NOT NULL, event TEXT NOT NULL,
          state TEXT NOT NULL, status TEXT NOT NULL, tries INTEGER NOT NULL, at_us INTEGER NOT NULL,
          PRIMARY KEY (webhook_id, event_id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX webhook_delivery_of ON webhook_delivery (webhook_id, seq);
        """,
    )


@migration(registry)
def m016_replays(db: Database) -> None:
    """Replays of logged traffic that people asked for."""
    run_script(
        db,
        """
        CREATE TABLE replay (
          id TEXT PRIMARY KEY, version_id TEXT NOT NULL REFERENCES model_version (id), state TEXT NOT NULL,
          starts INTEGER NOT NULL DEFAULT 0, found TEXT NOT NULL
        ) STRICT;
        CREATE INDEX replay_of ON replay (version_id, id);
        CREATE INDEX replay_open ON replay (id) WHERE state IN ('waiting', 'running');
        """,
    )


@migration(registry)
def m017_course(db: Database) -> None:
    """What a canary's guards said while its evidence grew, to be looked at as a picture."""
    run_script(
        db,
        """
        CREATE TABLE rollout_course (
          promotion_id TEXT NOT NULL REFERENCES promotion (id), step INTEGER NOT NULL, predictions INTEGER NOT NULL,
          point TEXT NOT NULL, PRIMARY KEY (promotion_id, step, predictions)
        ) STRICT, WITHOUT ROWID;
        """,
    )
