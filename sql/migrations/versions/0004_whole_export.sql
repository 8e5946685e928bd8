-- The whole export: revised keys, batches that replace others, withdrawals, revoked signing keys (K3, B1, B4, B5, A6).

------------------------------------------------------------------------------------------------------------ batches

ALTER TABLE batch
    -- B1: a batch that replaces another is planned with these, and they never change.
    ADD COLUMN with_keys           boolean NOT NULL DEFAULT true,    -- false: only the revisions that its span carries (K3)
    ADD COLUMN supplement          boolean NOT NULL DEFAULT false,   -- some batch of its chain was out
    ADD COLUMN end_offset          integer NOT NULL DEFAULT 0 CHECK (end_offset >= 0),   -- seconds; its files end later
    ADD COLUMN approved            text[] NOT NULL DEFAULT '{}',     -- expectations that it may fail (B4)
    ADD COLUMN reason              text,                             -- why an operator replaced, rejected or withdrew
    -- B4: why and since when it is held.
    ADD COLUMN failed_expectations text[] NOT NULL DEFAULT '{}',
    ADD COLUMN held_at             timestamptz,
    -- K3: fixed in the transaction that sets `built`; a rebuild needs them.
    ADD COLUMN carriers            bigint[],    -- batches of the feed that were released then
    ADD COLUMN withdrawn_carriers  bigint[],    -- and those whose files were out and are no longer
    ADD COLUMN code_version        text,        -- of what built it
    ADD CHECK (NOT supplement OR replaces IS NOT NULL),
    ADD CHECK (with_keys OR replaces IS NOT NULL),
    ADD CHECK ((carriers IS NULL) = (withdrawn_carriers IS NULL));
-- What was held and built before: it had no revised keys, and its 24 hours begin now.
UPDATE batch SET held_at = keyserver_now() WHERE status = 'held';
UPDATE batch SET carriers = '{}', withdrawn_carriers = '{}' WHERE counts <> '{}';
CREATE INDEX batch_span ON batch USING gist (feed_id, tstzrange(starts_at, ends_at));

-- What a batch's rules make of a key of its span, by the state that `revisions_to` gives (K2, K3, T3). The one place
-- that says which keys a batch has: padding, building, accounts and explanations all read it.
CREATE FUNCTION key_fate(batch batch, exposure exposure) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN NOT batch.with_keys THEN 'left_out'
    WHEN NOT (exposure.regions && batch.input_regions OR batch.travelers = 'include' AND exposure.traveler)
        THEN 'other_region'
    WHEN exposure.regions && batch.exclude_regions THEN 'excluded_region'
    WHEN batch.travelers = 'exclude' AND exposure.traveler THEN 'traveler'
    WHEN exposure.revised_report_type = 'negative' AND exposure.revised_at < batch.revisions_to THEN 'revoked'
    WHEN to_timestamp((exposure.interval_number + exposure.interval_count)::bigint * 600) < batch.cutoff THEN 'expired'
    ELSE 'released'
END;

-- `created_at` is there so that whoever asks can say the span again: a constant span is read in parallel.
DROP FUNCTION batch_rows;
CREATE FUNCTION batch_rows(wanted_batch bigint) RETURNS TABLE (
    exposure_key bytea, created_at timestamptz, report_type report_type, transmission_risk smallint,
    days_since_onset smallint, interval_number integer, interval_count smallint, synthetic boolean, fate text
) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT exposure.exposure_key,
           exposure.created_at,
           CASE WHEN exposure.revised_at < batch.revisions_to
                THEN exposure.revised_report_type ELSE exposure.report_type END,
           CASE WHEN exposure.revised_at < batch.revisions_to
                THEN exposure.revised_transmission_risk ELSE exposure.transmission_risk END,
           CASE WHEN exposure.revised_at < batch.revisions_to
                THEN exposure.revised_days_since_onset ELSE exposure.days_since_onset END,
           exposure.interval_number,
           exposure.interval_count,
           exposure.synthetic,
           key_fate(batch, exposure)
      FROM batch
      JOIN exposure ON exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
     WHERE batch.id = wanted_batch;
END;

-- The batches that a batch replaces, itself not among them.
CREATE FUNCTION batch_chain(wanted_batch bigint) RETURNS SETOF bigint LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE chain AS (
        SELECT replaces FROM batch WHERE id = wanted_batch
        UNION ALL
        SELECT batch.replaces FROM chain JOIN batch ON batch.id = chain.replaces)
    SELECT replaces FROM chain WHERE replaces IS NOT NULL;
END;

-- What becomes of each revision that a batch has to tell of (K3): those of its span, and in a supplement the revocations
-- of keys that a batch of its chain had out. `wanted_carriers` are the batches that are released when it is built,
-- `wanted_withdrawn` those that were: stored with the batch, so that a rebuild asks the same.
-- Fates: released, retold (a supplement's), expired; in_state (the carrier, or the batch itself, has it in `keys` so);
-- carrier_not_released (held, rejected, replaced, or withdrawn with nothing to revoke); not_carried (in no batch's keys).
CREATE FUNCTION batch_revisions(wanted_batch bigint, wanted_carriers bigint[], wanted_withdrawn bigint[])
RETURNS TABLE (
    exposure_key bytea, report_type report_type, transmission_risk smallint, days_since_onset smallint,
    interval_number integer, interval_count smallint, in_span boolean, fate text
) LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH told AS (
        SELECT exposure.exposure_key AS key, true AS in_span, false AS retold
          FROM batch
          JOIN exposure ON exposure.revised_at >= batch.starts_at AND exposure.revised_at < batch.ends_at
         WHERE batch.id = wanted_batch
        UNION ALL
        SELECT exposure.exposure_key, false, true
          FROM batch
          JOIN exposure ON exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
         WHERE batch.id = wanted_batch AND batch.supplement
           AND exposure.revised_report_type = 'negative' AND exposure.revised_at < batch.revisions_to
           AND EXISTS (SELECT FROM batch AS earlier
                        WHERE earlier.id IN (SELECT batch_chain(wanted_batch))
                          AND earlier.id = ANY (wanted_withdrawn) AND key_fate(earlier, exposure) = 'released')),
    once AS (
        SELECT key, bool_or(told.in_span) AS in_span, bool_or(retold) AS retold
          FROM told
         GROUP BY key)
    SELECT exposure.exposure_key, exposure.revised_report_type, exposure.revised_transmission_risk,
           exposure.revised_days_since_onset, exposure.interval_number, exposure.interval_count, once.in_span,
           CASE
               WHEN to_timestamp((exposure.interval_number + exposure.interval_count)::bigint * 600) < batch.cutoff
                   THEN 'expired'
               WHEN once.retold THEN 'retold'
               WHEN exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
                    AND key_fate(batch, exposure) IN ('released', 'revoked') THEN 'in_state'
               WHEN carrier.revisions_to IS NOT NULL AND exposure.revised_at < carrier.revisions_to THEN 'in_state'
               WHEN carrier.revisions_to IS NOT NULL THEN 'released'
               WHEN carrier.was_out AND exposure.revised_report_type = 'negative' THEN 'released'
               WHEN carrier.would_have THEN 'carrier_not_released'
               ELSE 'not_carried'
           END
      FROM once
      JOIN exposure ON exposure.exposure_key = once.key
      JOIN batch ON batch.id = wanted_batch
     CROSS JOIN LATERAL (
           -- At most one batch that is out has the key (K1).
           SELECT max(other.revisions_to) FILTER (WHERE other.id = ANY (wanted_carriers)
                                                    AND key_fate(other, exposure) = 'released') AS revisions_to,
                  bool_or(other.id = ANY (wanted_withdrawn) AND key_fate(other, exposure) = 'released') AS was_out,
                  bool_or(key_fate(other, exposure) IN ('released', 'revoked')) AS would_have
             FROM batch AS other
            WHERE other.feed_id = batch.feed_id
              AND tstzrange(other.starts_at, other.ends_at) @> exposure.created_at) AS carrier;
END;

-------------------------------------------------------------------------------------------------------------- feeds

-- P5: so that silence tells nothing, a feed may ask for a file of synthetic keys where it would have none.
ALTER TABLE feed ADD COLUMN padding_empty boolean NOT NULL DEFAULT false;

-------------------------------------------------------------------------------------------------------------- files

ALTER TABLE file ADD COLUMN left_index_at timestamptz;   -- when its line was last seen in the database's index (R2, B5)

------------------------------------------------------------------------------------------------------- signing keys

-- An emergency: nothing is signed by it any more, whatever `active_thru` says.
ALTER TABLE signing_key ADD COLUMN revoked_at timestamptz;

CREATE FUNCTION refuse_unrevoking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a revoked signing key stays revoked'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'signing_key_revoked_once';
END $$;
CREATE TRIGGER signing_key_revoked_once BEFORE UPDATE OF revoked_at ON signing_key
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL) EXECUTE FUNCTION refuse_unrevoking();

------------------------------------------------------------------------------------------------------- transparency

-- A3: the public log of each feed. Its key signs nothing else, and no other key signs it; a key's purpose never changes.
ALTER TABLE signing_key
    ADD COLUMN purpose text NOT NULL DEFAULT 'export' CHECK (purpose IN ('export', 'transparency')),
    ADD UNIQUE (id, purpose);
ALTER TABLE feed_signing_key
    ADD COLUMN purpose text NOT NULL DEFAULT 'export' CHECK (purpose = 'export'),
    ADD FOREIGN KEY (signing_key_id, purpose) REFERENCES signing_key (id, purpose);
ALTER TABLE batch_signing_key
    ADD COLUMN purpose text NOT NULL DEFAULT 'export' CHECK (purpose = 'export'),
    ADD FOREIGN KEY (signing_key_id, purpose) REFERENCES signing_key (id, purpose);

-- The days of a feed's log that are over, without a gap. The open day is the one after the last of them.
CREATE TABLE transparency_segment (
    feed_id     bigint NOT NULL REFERENCES feed,
    day         date NOT NULL,
    closed_at   timestamptz NOT NULL,
    head_seq    bigint NOT NULL CHECK (head_seq >= 0),                       -- the audit chain's head then,
    head_sha256 bytea NOT NULL CHECK (octet_length(head_sha256) = 32),       -- 0 and zeros before its first event
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),            -- of all its lines but the signature
    PRIMARY KEY (feed_id, day)
);

-- One line a release or withdrawal of a file, with what phones can compare. Copied, so that it outlives the file.
CREATE TABLE transparency_line (
    feed_id       bigint NOT NULL REFERENCES feed,
    number        bigint NOT NULL CHECK (number > 0),
    day           date NOT NULL,
    at            timestamptz NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('release', 'withdrawal')),
    name          text NOT NULL,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    keys          integer NOT NULL CHECK (keys >= 0),                        -- all of them: never by reason
    zip_sha256    bytea NOT NULL CHECK (octet_length(zip_sha256) = 32),
    export_sha256 bytea NOT NULL CHECK (octet_length(export_sha256) = 32),
    PRIMARY KEY (feed_id, number),
    UNIQUE (feed_id, name, kind)
);

-- Stored before it is published, so that a segment written again is the same bytes.
CREATE TABLE transparency_signature (
    sha256         bytea NOT NULL CHECK (octet_length(sha256) = 32),
    signing_key_id bigint NOT NULL,
    purpose        text NOT NULL DEFAULT 'transparency' CHECK (purpose = 'transparency'),
    signature      bytea NOT NULL,
    PRIMARY KEY (sha256, signing_key_id),
    FOREIGN KEY (signing_key_id, purpose) REFERENCES signing_key (id, purpose)
);

GRANT SELECT, INSERT ON transparency_segment, transparency_line, transparency_signature TO keyserver_pipeline;
GRANT SELECT ON transparency_segment, transparency_line, transparency_signature TO keyserver_auditor;

---------------------------------------------------------------------------------------- fetched as a phone does

ALTER TABLE file ADD COLUMN confirmed_at timestamptz;   -- when a released file was fetched through the public URL
CREATE INDEX file_unconfirmed ON file (feed_id, release_no) WHERE status = 'released' AND confirmed_at IS NULL;

GRANT UPDATE (confirmed_at) ON file TO keyserver_pipeline;

------------------------------------------------------------------------------------------------------------- grants

GRANT UPDATE (reason, failed_expectations, held_at, carriers, withdrawn_carriers, code_version) ON batch
    TO keyserver_pipeline;
GRANT UPDATE (left_index_at) ON file TO keyserver_pipeline;
GRANT UPDATE (revoked_at) ON signing_key TO keyserver_pipeline;
GRANT UPDATE (padding_empty) ON feed TO keyserver_pipeline;
REVOKE EXECUTE ON FUNCTION batch_rows, key_fate, batch_revisions, batch_chain FROM PUBLIC;
GRANT EXECUTE ON FUNCTION batch_rows, key_fate, batch_revisions, batch_chain TO keyserver_pipeline;
