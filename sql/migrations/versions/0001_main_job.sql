-- The main job: from an upload to a released file. Rule numbers (T, W, K, B, R, A) are those of the design.
-- Roles are made by sql/roles.sql, once, by a superuser; all that follows is run by keyserver_migrate, who owns it.

CREATE EXTENSION IF NOT EXISTS btree_gist;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO keyserver_api, keyserver_pipeline, keyserver_rewriter, keyserver_auditor;

---------------------------------------------------------------------------------------------------------------- time

-- T1: the only clock that SQL reads. The tests give it another body (release_clock.settable tells).
CREATE FUNCTION keyserver_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN clock_timestamp();

-- W1: one row.
CREATE TABLE release_clock (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    width_minutes     integer NOT NULL CHECK (width_minutes BETWEEN 1 AND 1440 AND 1440 % width_minutes = 0),
    closed_through    timestamptz NOT NULL,   -- every window ending at or before it is closed
    rewritten_through timestamptz NOT NULL,   -- and of these, every window whose rows were put in key order (W5)
    settable          boolean NOT NULL DEFAULT false,
    CHECK (rewritten_through <= closed_through)
);

CREATE FUNCTION window_start(moment timestamptz, width_minutes integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE
RETURN date_bin(make_interval(mins => width_minutes), moment, timestamptz '1970-01-01 00:00:00+00');

-- The second half of a window's advisory lock (the first is the class, 1): its start in minutes since the epoch.
CREATE FUNCTION window_lock(window_start timestamptz) RETURNS integer LANGUAGE sql IMMUTABLE
RETURN (extract(epoch FROM window_start) / 60)::integer;

-- A closed window and what was in it at that moment: the totals that every later account has to add up to (A6).
CREATE TABLE closed_window (
    starts_at      timestamptz PRIMARY KEY,
    ends_at        timestamptz NOT NULL CHECK (ends_at > starts_at),
    keys           integer NOT NULL CHECK (keys >= 0),
    synthetic_keys integer NOT NULL CHECK (synthetic_keys BETWEEN 0 AND keys),
    revisions      integer NOT NULL CHECK (revisions >= 0),
    closed_at      timestamptz NOT NULL
);

----------------------------------------------------------------------------------------- who may upload, who signs

CREATE TABLE health_authority (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer   text NOT NULL UNIQUE CHECK (issuer <> ''),
    audience text NOT NULL CHECK (audience <> ''),
    name     text NOT NULL CHECK (name <> '')
);

CREATE TABLE health_authority_key (
    health_authority_id bigint NOT NULL REFERENCES health_authority,
    kid                 text NOT NULL CHECK (kid <> ''),
    public_key          text NOT NULL,
    valid_from          timestamptz NOT NULL,
    valid_thru          timestamptz CHECK (valid_thru >= valid_from),
    PRIMARY KEY (health_authority_id, kid)
);

CREATE TABLE authorised_app (
    name    text PRIMARY KEY CHECK (name <> '' AND name = lower(name)),
    regions text[] NOT NULL CHECK (cardinality(regions) > 0)
);

CREATE TABLE authorised_app_authority (
    app_name            text NOT NULL REFERENCES authorised_app ON DELETE CASCADE,
    health_authority_id bigint NOT NULL REFERENCES health_authority,
    PRIMARY KEY (app_name, health_authority_id)
);

CREATE TABLE signing_key (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]*$'),   -- what the signer knows it by
    key_id      text NOT NULL CHECK (key_id ~ '^[A-Za-z0-9_]+$'),
    key_version text NOT NULL CHECK (key_version ~ '^[A-Za-z0-9_]+$'),
    public_key  text NOT NULL,
    active_from timestamptz NOT NULL,
    active_thru timestamptz CHECK (active_thru >= active_from),
    UNIQUE (key_id, key_version)
);

--------------------------------------------------------------------------------------------------------------- keys

-- In the order of the export format's numbers, so that ordering by it is ordering by the number in the file (B10).
CREATE TYPE report_type AS ENUM ('confirmed', 'likely', 'user-report', 'negative');

CREATE TABLE exposure (
    exposure_key              bytea PRIMARY KEY CHECK (octet_length(exposure_key) = 16),
    interval_number           integer NOT NULL CHECK (interval_number BETWEEN 0 AND 2147483647 - 144),
    interval_count            smallint NOT NULL CHECK (interval_count BETWEEN 1 AND 144),
    transmission_risk         smallint NOT NULL CHECK (transmission_risk BETWEEN 0 AND 8),
    days_since_onset          smallint CHECK (days_since_onset BETWEEN -14 AND 14),
    report_type               report_type CHECK (report_type <> 'negative'),
    traveler                  boolean NOT NULL,
    regions                   text[] NOT NULL CHECK (cardinality(regions) > 0),
    created_at                timestamptz NOT NULL,   -- the start of its window, never its moment
    synthetic                 boolean NOT NULL DEFAULT false,
    app_name                  text,
    health_authority_id       bigint REFERENCES health_authority,
    revised_at                timestamptz CHECK (revised_at >= created_at),
    revised_report_type       report_type,
    revised_transmission_risk smallint CHECK (revised_transmission_risk BETWEEN 0 AND 8),
    revised_days_since_onset  smallint CHECK (revised_days_since_onset BETWEEN -14 AND 14),
    revised_authority_id      bigint REFERENCES health_authority,
    CHECK ((revised_at IS NULL) = (revised_report_type IS NULL)),
    CHECK ((revised_at IS NULL) = (revised_transmission_risk IS NULL)),
    CHECK (revised_at IS NOT NULL OR (revised_days_since_onset IS NULL AND revised_authority_id IS NULL)),
    CHECK (NOT synthetic OR (revised_at IS NULL AND app_name IS NULL AND health_authority_id IS NULL))
);
CREATE INDEX exposure_created_at ON exposure (created_at);
CREATE INDEX exposure_revised_at ON exposure (revised_at) WHERE revised_at IS NOT NULL;

-- W4: nothing enters a closed window. The rewriting role puts back what it took out.
CREATE FUNCTION refuse_closed_window() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    through timestamptz;
BEGIN
    IF current_user = 'keyserver_rewriter' THEN
        RETURN NULL;
    END IF;
    SELECT closed_through INTO through FROM release_clock;
    IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM changed WHERE created_at < through)
       OR EXISTS (SELECT FROM changed WHERE revised_at < through AND TG_OP = 'UPDATE') THEN
        RAISE EXCEPTION 'a window that ends at or before % is closed', through
            USING ERRCODE = 'check_violation', CONSTRAINT = 'closed_window';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refuse_closed_window_insert AFTER INSERT ON exposure
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION refuse_closed_window();
CREATE TRIGGER refuse_closed_window_update AFTER UPDATE ON exposure
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION refuse_closed_window();

---------------------------------------------------------------------------------------------------- feeds, batches

CREATE TABLE feed (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]*$'),
    root            text NOT NULL UNIQUE CHECK (root ~ '^[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*$'),
    output_region   text NOT NULL CHECK (output_region <> ''),
    input_regions   text[] NOT NULL CHECK (cardinality(input_regions) > 0),
    exclude_regions text[] NOT NULL DEFAULT '{}',
    travelers       text NOT NULL CHECK (travelers IN ('by-region', 'include', 'exclude')),
    period_minutes  integer NOT NULL CHECK (period_minutes > 0 AND 1440 % period_minutes = 0),
    active_from     timestamptz NOT NULL,
    active_thru     timestamptz CHECK (active_thru > active_from),
    max_keys        integer NOT NULL CHECK (max_keys > 0),
    padding_minimum integer NOT NULL CHECK (padding_minimum >= 0),
    padding_spread  integer NOT NULL CHECK (padding_spread >= 0),
    development     boolean NOT NULL,
    paused          boolean NOT NULL,
    last_release_no bigint NOT NULL DEFAULT 0,   -- B7: counted under this row's lock, never by a sequence
    index_sha256    bytea CHECK (octet_length(index_sha256) = 32)   -- of the index as it was last written
);

CREATE TABLE feed_signing_key (
    feed_id        bigint NOT NULL REFERENCES feed,
    signing_key_id bigint NOT NULL REFERENCES signing_key,
    PRIMARY KEY (feed_id, signing_key_id)
);

-- B1: what a batch is made of is written when it is planned and never changes; its id is its place in the feed's order.
CREATE TABLE batch (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    feed_id          bigint NOT NULL REFERENCES feed,
    starts_at        timestamptz NOT NULL,
    ends_at          timestamptz NOT NULL CHECK (ends_at > starts_at),
    cutoff           timestamptz NOT NULL,
    revisions_to     timestamptz NOT NULL CHECK (revisions_to >= ends_at),
    replaces         bigint UNIQUE REFERENCES batch,
    root             text NOT NULL,
    output_region    text NOT NULL,
    input_regions    text[] NOT NULL,
    exclude_regions  text[] NOT NULL,
    travelers        text NOT NULL,
    max_keys         integer NOT NULL CHECK (max_keys > 0),
    status           text NOT NULL DEFAULT 'planned' CHECK (status IN (
                         'planned', 'built', 'checked', 'signed', 'verified', 'released', 'withdrawing', 'withdrawn',
                         'empty', 'held', 'rejected', 'replaced')),
    counts           jsonb NOT NULL DEFAULT '{}',   -- how many of the span's rows took which way (A6), set with `built`
    problem          text,                          -- why it is held
    failed_runs      text[] NOT NULL DEFAULT '{}',
    claimed_by       text,                          -- B3: the run that works on it
    claim_renewed_at timestamptz,
    CHECK ((claimed_by IS NULL) = (claim_renewed_at IS NULL)),
    CHECK ((status = 'held') <= (problem IS NOT NULL)),
    EXCLUDE USING gist (feed_id WITH =, tstzrange(starts_at, ends_at) WITH &&) WHERE (replaces IS NULL)
);
CREATE INDEX batch_due ON batch (feed_id, id) WHERE status IN ('planned', 'built', 'checked', 'signed', 'verified');

CREATE FUNCTION refuse_way_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
           ('planned', 'built'), ('planned', 'empty'), ('built', 'checked'), ('checked', 'signed'),
           ('signed', 'verified'), ('verified', 'released'), ('released', 'withdrawing'), ('withdrawing', 'withdrawn'),
           ('planned', 'held'), ('built', 'held'), ('checked', 'held'), ('signed', 'held'), ('verified', 'held'),
           ('held', 'rejected'), ('held', 'replaced')) THEN
        RAISE EXCEPTION 'a batch does not go from % to %', OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'batch_one_way';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER batch_one_way BEFORE UPDATE OF status ON batch FOR EACH ROW EXECUTE FUNCTION refuse_way_back();

CREATE TABLE batch_signing_key (
    batch_id       bigint NOT NULL REFERENCES batch,
    position       smallint NOT NULL CHECK (position BETWEEN 1 AND 10),   -- the newest key first
    signing_key_id bigint NOT NULL REFERENCES signing_key,
    PRIMARY KEY (batch_id, position),
    UNIQUE (batch_id, signing_key_id)
);

-- What becomes of each row of a batch's span, and the state in which it would be released (K2, K3; T3).
-- The one place that says which keys a batch has: padding, building and accounts all read it.
CREATE FUNCTION batch_rows(wanted_batch bigint) RETURNS TABLE (
    exposure_key bytea, report_type report_type, transmission_risk smallint, days_since_onset smallint,
    interval_number integer, interval_count smallint, synthetic boolean, fate text
) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT exposure.exposure_key,
           CASE WHEN state.revised THEN exposure.revised_report_type ELSE exposure.report_type END,
           CASE WHEN state.revised THEN exposure.revised_transmission_risk ELSE exposure.transmission_risk END,
           CASE WHEN state.revised THEN exposure.revised_days_since_onset ELSE exposure.days_since_onset END,
           exposure.interval_number,
           exposure.interval_count,
           exposure.synthetic,
           CASE
               WHEN NOT (exposure.regions && batch.input_regions OR batch.travelers = 'include' AND exposure.traveler)
                   THEN 'other_region'
               WHEN exposure.regions && batch.exclude_regions THEN 'excluded_region'
               WHEN batch.travelers = 'exclude' AND exposure.traveler THEN 'traveler'
               WHEN state.revised AND exposure.revised_report_type = 'negative' THEN 'revoked'
               WHEN to_timestamp((exposure.interval_number + exposure.interval_count)::bigint * 600) < batch.cutoff
                   THEN 'expired'
               ELSE 'released'
           END
      FROM batch
      JOIN exposure ON exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
     CROSS JOIN LATERAL (SELECT coalesce(exposure.revised_at < batch.revisions_to, false) AS revised) AS state
     WHERE batch.id = wanted_batch;
END;

CREATE TABLE file (
    batch_id      bigint NOT NULL REFERENCES batch,
    number        smallint NOT NULL CHECK (number > 0),
    starts_at     timestamptz NOT NULL,      -- as the file itself says
    ends_at       timestamptz NOT NULL,      -- distinct for each file of a batch (export.md 2.8)
    keys          integer NOT NULL CHECK (keys >= 0),
    revised_keys  integer NOT NULL CHECK (revised_keys >= 0),
    export_sha256 bytea NOT NULL CHECK (octet_length(export_sha256) = 32),
    name          text UNIQUE,               -- as the index lists it (B9), set with `signed`
    zip_sha256    bytea CHECK (octet_length(zip_sha256) = 32),
    zip_bytes     integer CHECK (zip_bytes > 0),
    compressor    text,                      -- what an identical zip needs beside identical bytes (B8)
    status        text NOT NULL DEFAULT 'staged' CHECK (status IN (
                      'staged', 'released', 'withdrawing', 'withdrawn', 'expired', 'deleted')),
    feed_id       bigint NOT NULL REFERENCES feed,
    release_no    bigint,                    -- its line's place in the index (B6)
    released_at   timestamptz,
    PRIMARY KEY (batch_id, number),
    UNIQUE (feed_id, release_no),
    CHECK ((name IS NULL) = (zip_sha256 IS NULL)),
    CHECK ((name IS NULL) = (zip_bytes IS NULL)),
    CHECK ((name IS NULL) = (compressor IS NULL)),
    CHECK ((release_no IS NULL) = (released_at IS NULL)),
    CHECK (status = 'staged' OR release_no IS NOT NULL)
);

-- B8: a signature is stored before the file that carries it is made, so that making it again gives the same bytes.
CREATE TABLE signature (
    export_sha256  bytea NOT NULL CHECK (octet_length(export_sha256) = 32),
    signing_key_id bigint NOT NULL REFERENCES signing_key,
    signature      bytea NOT NULL,
    PRIMARY KEY (export_sha256, signing_key_id)
);

-------------------------------------------------------------------------------------------------------------- audit

-- A1: an event is its bytes; the columns beside them only serve to find it.
CREATE TABLE audit_event (
    seq  bigint PRIMARY KEY CHECK (seq > 0),
    at   timestamptz NOT NULL,
    kind text NOT NULL,
    body bytea NOT NULL,
    hash bytea NOT NULL UNIQUE CHECK (hash = sha256(body))
);

CREATE FUNCTION refuse_change_of_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are never changed or removed' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_event_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_history();

-- RFC 8785 for what events hold: strings, whole numbers, booleans, null, objects with ASCII names, arrays.
-- PostgreSQL escapes strings exactly as the RFC asks: the short escapes, \u00xx in lower case, all else as it is.
CREATE FUNCTION canonical_json(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    CASE jsonb_typeof(value)
        WHEN 'object' THEN
            IF EXISTS (SELECT FROM jsonb_object_keys(value) AS name WHERE name !~ '^[ -~]*$') THEN
                RAISE EXCEPTION 'a name in an audit event is not ASCII';
            END IF;
            RETURN (SELECT '{' || coalesce(string_agg(to_json(name)::text || ':' || canonical_json(member), ','
                                                      ORDER BY name COLLATE "C"), '') || '}'
                      FROM jsonb_each(value) AS members (name, member));
        WHEN 'array' THEN
            RETURN (SELECT '[' || coalesce(string_agg(canonical_json(element), ',' ORDER BY place), '') || ']'
                      FROM jsonb_array_elements(value) WITH ORDINALITY AS elements (element, place));
        WHEN 'string' THEN
            RETURN to_json(value #>> '{}')::text;
        WHEN 'number' THEN
            IF value::numeric <> trunc(value::numeric) OR abs(value::numeric) > 9007199254740991 THEN
                RAISE EXCEPTION 'a number in an audit event is not whole or too large';
            END IF;
            RETURN trunc(value::numeric)::text;
        ELSE
            RETURN value::text;
    END CASE;
END $$;

-- The only way in. The lock is taken before the head is read, and the head in a later statement, whose snapshot
-- therefore has every event committed before. Callers append last and commit at once: publishing never waits here.
CREATE FUNCTION audit_append(events jsonb[]) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    event jsonb;
    head record;
    next_seq bigint;
    moment timestamptz;
    bytes bytea;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'audit events are appended in READ COMMITTED only';
    END IF;
    PERFORM pg_advisory_xact_lock(2, 0);
    SELECT seq, hash INTO head FROM audit_event ORDER BY seq DESC LIMIT 1;
    FOREACH event IN ARRAY events LOOP
        IF (SELECT array_agg(name ORDER BY name) FROM jsonb_object_keys(event) AS name)
           IS DISTINCT FROM ARRAY['actor', 'counts', 'dag', 'hashes', 'kind', 'map_index', 'run', 'subject', 'task', 'try'] THEN
            RAISE EXCEPTION 'an audit event has other members than version 1 asks for';
        END IF;
        next_seq := coalesce(head.seq, 0) + 1;
        moment := keyserver_now();
        bytes := convert_to(canonical_json(event || jsonb_build_object(
            'v', 1,
            'seq', next_seq,
            'at', to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'prev', encode(head.hash, 'hex'))), 'UTF8');
        INSERT INTO audit_event (seq, at, kind, body, hash)
        VALUES (next_seq, moment, event ->> 'kind', bytes, sha256(bytes))
        RETURNING seq, hash INTO head;
        RETURN NEXT next_seq;
    END LOOP;
END $$;

------------------------------------------------------------------------------------------------------------- grants

-- The API: reads who may upload and which windows are open, writes keys. It sees neither batches nor history.
GRANT SELECT ON release_clock, health_authority, health_authority_key, authorised_app, authorised_app_authority
    TO keyserver_api;
GRANT SELECT ON exposure TO keyserver_api;
GRANT INSERT (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type, traveler,
              regions, created_at, app_name, health_authority_id) ON exposure TO keyserver_api;
GRANT UPDATE (revised_at, revised_report_type, revised_transmission_risk, revised_days_since_onset,
              revised_authority_id) ON exposure TO keyserver_api;

-- The pipeline: windows, batches, files and the declared configuration. It removes no key and no batch.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO keyserver_pipeline;
GRANT INSERT ON exposure, closed_window, batch, batch_signing_key, file, signature TO keyserver_pipeline;
GRANT UPDATE (closed_through) ON release_clock TO keyserver_pipeline;
GRANT UPDATE (status, counts, problem, failed_runs, claimed_by, claim_renewed_at) ON batch TO keyserver_pipeline;
GRANT UPDATE (name, zip_sha256, zip_bytes, compressor, status, release_no, released_at) ON file TO keyserver_pipeline;
-- What is declared under a name stays what it was: a key, a feed's folder. Their other settings may change.
GRANT INSERT ON health_authority, health_authority_key, authorised_app, signing_key, feed TO keyserver_pipeline;
GRANT UPDATE (audience, name) ON health_authority TO keyserver_pipeline;
GRANT UPDATE (valid_from, valid_thru) ON health_authority_key TO keyserver_pipeline;
GRANT UPDATE (regions) ON authorised_app TO keyserver_pipeline;
GRANT UPDATE (active_from, active_thru) ON signing_key TO keyserver_pipeline;
GRANT UPDATE (output_region, input_regions, exclude_regions, travelers, period_minutes, active_from, active_thru,
              max_keys, padding_minimum, padding_spread, development, paused, last_release_no, index_sha256) ON feed
    TO keyserver_pipeline;
GRANT INSERT, DELETE ON authorised_app_authority, feed_signing_key TO keyserver_pipeline;
GRANT DELETE ON authorised_app TO keyserver_pipeline;

-- W5: takes rows out and puts the same rows back; it can read and write nothing else.
GRANT SELECT, INSERT, DELETE ON exposure TO keyserver_rewriter;
GRANT SELECT, UPDATE (rewritten_through) ON release_clock TO keyserver_rewriter;

-- The auditor: everything but the bytes of keys.
GRANT SELECT ON release_clock, closed_window, health_authority, health_authority_key, authorised_app,
    authorised_app_authority, signing_key, feed, feed_signing_key, batch, batch_signing_key, file, signature, audit_event
    TO keyserver_auditor;
GRANT SELECT (interval_number, interval_count, transmission_risk, days_since_onset, report_type, traveler, regions,
              created_at, synthetic, app_name, health_authority_id, revised_at, revised_report_type,
              revised_transmission_risk, revised_days_since_onset, revised_authority_id) ON exposure
    TO keyserver_auditor;

REVOKE EXECUTE ON FUNCTION audit_append, batch_rows FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append TO keyserver_pipeline, keyserver_rewriter;
GRANT EXECUTE ON FUNCTION batch_rows TO keyserver_pipeline;
