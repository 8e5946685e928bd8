-- Quality results, fourteen-day retention, deletion on demand (B4, R1 to R5).

------------------------------------------------------------------------------------------------------------ quality

-- One row an expectation and run: what was expected, what was found. Never a key. They go after RETENTION, like keys.
CREATE TABLE quality_result (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    suite       text NOT NULL CHECK (suite <> ''),
    subject     text NOT NULL CHECK (subject <> ''),        -- what was looked at, for people: `batch 12`, `feed north`
    batch_id    bigint REFERENCES batch,
    feed_id     bigint REFERENCES feed,
    expectation text NOT NULL CHECK (expectation <> ''),
    owner       text NOT NULL,
    reason      text NOT NULL,
    severity    text NOT NULL CHECK (severity IN ('block', 'warn')),
    met         boolean NOT NULL,
    expected    text NOT NULL,
    found       text NOT NULL,
    observed    double precision,                           -- what was measured: later runs compare themselves with it
    run         text                                        -- the DAG run or command that asked
);
CREATE INDEX quality_result_at ON quality_result (at);
CREATE INDEX quality_result_batch ON quality_result (batch_id, at) WHERE batch_id IS NOT NULL;
CREATE INDEX quality_result_missed ON quality_result (at) WHERE NOT met;
CREATE INDEX quality_result_expectation ON quality_result (suite, expectation, at);
CREATE INDEX quality_result_usual ON quality_result (feed_id, expectation, at) WHERE observed IS NOT NULL;

-- What a batch was to be padded to when it was planned (P2), for the gate. NULL: it was not to be padded (a replacing
-- batch), or was planned before this was written down.
ALTER TABLE batch ADD COLUMN padding_minimum integer CHECK (padding_minimum >= 0),
                  ADD COLUMN padding_spread integer CHECK (padding_spread >= 0),
                  ADD CHECK ((padding_minimum IS NULL) = (padding_spread IS NULL));

---------------------------------------------------------------------------------------------------------- retention

-- How long rows, lines and counters are kept (RETENTION); never longer than phones can match.
CREATE TABLE retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    period   interval NOT NULL DEFAULT interval '14 days' CHECK (period > interval '0' AND period <= interval '14 days')
);
INSERT INTO retention DEFAULT VALUES;

-- R5: what was deleted on demand, and how much of each window, so that provenance adds up (A6).
CREATE TABLE deletion (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    app_name  text NOT NULL,
    starts_at timestamptz NOT NULL,                         -- its windows, half-open
    ends_at   timestamptz NOT NULL,
    reason    text NOT NULL CHECK (reason <> ''),
    carried   bigint[] NOT NULL DEFAULT '{}',               -- the released batches whose files had some of the keys
    CHECK (ends_at > starts_at)
);
CREATE TABLE deletion_window (
    deletion_id bigint NOT NULL REFERENCES deletion,
    starts_at   timestamptz NOT NULL,                       -- a window
    keys        integer NOT NULL CHECK (keys >= 0),         -- deleted rows that it had published
    revisions   integer NOT NULL CHECK (revisions >= 0),    -- deleted rows that it had revised
    PRIMARY KEY (deletion_id, starts_at)
);
CREATE INDEX deletion_window_starts_at ON deletion_window (starts_at);

-- Gives how far windows are closed, and lets none be closed and no batch be planned until the transaction ends: so a
-- deletion counts what the windows' totals counted, and no batch is made of its rows that it does not know of (A6). A
-- function, since whoever deletes may lock the clock without being allowed to move it.
CREATE FUNCTION hold_release_clock() RETURNS timestamptz
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
    BEGIN ATOMIC
        SELECT closed_through FROM release_clock FOR SHARE;
    END;
REVOKE EXECUTE ON FUNCTION hold_release_clock FROM PUBLIC;

--------------------------------------------------------------------------------------------------- deletion by age

-- The newest window of which rows were deleted by age: what is missing up to there may be retention's doing, whatever the
-- period was then and is now.
ALTER TABLE retention ADD COLUMN deleted_through timestamptz;

-- Files that may have a line or an object, among all that there ever were.
CREATE INDEX file_in_store ON file (batch_id) WHERE status IN ('released', 'withdrawing', 'expired');

-- Each key is deleted twice: when its window is rewritten, and at its end. What vacuum leaves of it lies in the table's
-- files, so it comes several times a day whatever the size (docs/retention.md).
ALTER TABLE exposure SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

------------------------------------------------------------------------------------------------------------- grants

GRANT SELECT, INSERT ON quality_result TO keyserver_pipeline;
GRANT SELECT ON quality_result TO keyserver_auditor;
GRANT SELECT ON retention, deletion, deletion_window TO keyserver_pipeline, keyserver_auditor;
GRANT UPDATE (period) ON retention TO keyserver_pipeline;

-- An auditor asks how old the oldest is of all that goes; of what is secret that is all they see.
GRANT SELECT (seen_at) ON attestation_seen TO keyserver_auditor;
GRANT SELECT (long_expires_at) ON verification_code TO keyserver_auditor;
GRANT SELECT (expires_at) ON verification_token TO keyserver_auditor;
GRANT SELECT (until) ON verification_user_report TO keyserver_auditor;
GRANT SELECT (starts_at) ON verification_rate TO keyserver_auditor;

-- The one process that removes what is old, or what somebody asked to have removed. It stores no key and signs nothing.
GRANT USAGE ON SCHEMA public TO keyserver_retention;
GRANT SELECT ON release_clock, batch, file, feed, retention TO keyserver_retention;
GRANT SELECT, DELETE ON exposure TO keyserver_retention;   -- whole rows: what became of a key is told by `key_fate`
GRANT DELETE ON attestation_seen, upload_stats, profile, profile_marginal, quality_result, verification_code,
    verification_token, verification_user_report, verification_rate TO keyserver_retention;
GRANT SELECT (ctid, seen_at) ON attestation_seen TO keyserver_retention;
GRANT SELECT (ctid, hour) ON upload_stats TO keyserver_retention;
GRANT SELECT (ctid, day) ON profile, profile_marginal TO keyserver_retention;
GRANT SELECT (ctid, at) ON quality_result TO keyserver_retention;
GRANT SELECT (ctid, long_expires_at) ON verification_code TO keyserver_retention;
GRANT SELECT (ctid, expires_at) ON verification_token TO keyserver_retention;
GRANT SELECT (ctid, until) ON verification_user_report TO keyserver_retention;
GRANT SELECT (ctid, starts_at) ON verification_rate TO keyserver_retention;
GRANT UPDATE (deleted_through) ON retention TO keyserver_retention;
GRANT SELECT, INSERT ON deletion, deletion_window TO keyserver_retention;
GRANT EXECUTE ON FUNCTION hold_release_clock TO keyserver_retention;
GRANT UPDATE (status, left_index_at) ON file TO keyserver_retention;
GRANT UPDATE (status, problem, failed_expectations, held_at, claimed_by, claim_renewed_at) ON batch
    TO keyserver_retention;
GRANT EXECUTE ON FUNCTION audit_append, key_fate, batch_rows, batch_revisions, batch_chain TO keyserver_retention;
