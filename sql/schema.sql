-- Written by `make schema` from sql/migrations: for reading only, nothing runs it.

CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA public;

COMMENT ON EXTENSION btree_gist IS 'support for indexing common datatypes in GiST';

CREATE TYPE public.report_type AS ENUM (
    'confirmed',
    'likely',
    'user-report',
    'negative'
);

CREATE FUNCTION public.audit_append(events jsonb[]) RETURNS SETOF bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
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

CREATE TABLE public.batch (
    id bigint NOT NULL,
    feed_id bigint NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    cutoff timestamp with time zone NOT NULL,
    revisions_to timestamp with time zone NOT NULL,
    replaces bigint,
    root text NOT NULL,
    output_region text NOT NULL,
    input_regions text[] NOT NULL,
    exclude_regions text[] NOT NULL,
    travelers text NOT NULL,
    max_keys integer NOT NULL,
    status text DEFAULT 'planned'::text NOT NULL,
    counts jsonb DEFAULT '{}'::jsonb NOT NULL,
    problem text,
    failed_runs text[] DEFAULT '{}'::text[] NOT NULL,
    claimed_by text,
    claim_renewed_at timestamp with time zone,
    with_keys boolean DEFAULT true NOT NULL,
    supplement boolean DEFAULT false NOT NULL,
    end_offset integer DEFAULT 0 NOT NULL,
    approved text[] DEFAULT '{}'::text[] NOT NULL,
    reason text,
    failed_expectations text[] DEFAULT '{}'::text[] NOT NULL,
    held_at timestamp with time zone,
    carriers bigint[],
    withdrawn_carriers bigint[],
    code_version text,
    padding_minimum integer,
    padding_spread integer,
    CONSTRAINT batch_check CHECK ((ends_at > starts_at)),
    CONSTRAINT batch_check1 CHECK ((revisions_to >= ends_at)),
    CONSTRAINT batch_check2 CHECK (((claimed_by IS NULL) = (claim_renewed_at IS NULL))),
    CONSTRAINT batch_check3 CHECK (((status = 'held'::text) <= (problem IS NOT NULL))),
    CONSTRAINT batch_check4 CHECK (((NOT supplement) OR (replaces IS NOT NULL))),
    CONSTRAINT batch_check5 CHECK ((with_keys OR (replaces IS NOT NULL))),
    CONSTRAINT batch_check6 CHECK (((carriers IS NULL) = (withdrawn_carriers IS NULL))),
    CONSTRAINT batch_check7 CHECK (((padding_minimum IS NULL) = (padding_spread IS NULL))),
    CONSTRAINT batch_end_offset_check CHECK ((end_offset >= 0)),
    CONSTRAINT batch_max_keys_check CHECK ((max_keys > 0)),
    CONSTRAINT batch_padding_minimum_check CHECK ((padding_minimum >= 0)),
    CONSTRAINT batch_padding_spread_check CHECK ((padding_spread >= 0)),
    CONSTRAINT batch_status_check CHECK ((status = ANY (ARRAY['planned'::text, 'built'::text, 'checked'::text, 'signed'::text, 'verified'::text, 'released'::text, 'withdrawing'::text, 'withdrawn'::text, 'empty'::text, 'held'::text, 'rejected'::text, 'replaced'::text])))
);

CREATE FUNCTION public.batch_chain(wanted_batch bigint) RETURNS SETOF bigint
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 WITH RECURSIVE chain AS (
          SELECT batch.replaces
            FROM public.batch
           WHERE (batch.id = batch_chain.wanted_batch)
         UNION ALL
          SELECT batch.replaces
            FROM (chain chain_1
              JOIN public.batch ON ((batch.id = chain_1.replaces)))
         )
  SELECT chain.replaces
    FROM chain
   WHERE (chain.replaces IS NOT NULL);
END;

CREATE TABLE public.exposure (
    exposure_key bytea NOT NULL,
    interval_number integer NOT NULL,
    interval_count smallint NOT NULL,
    transmission_risk smallint NOT NULL,
    days_since_onset smallint,
    report_type public.report_type,
    traveler boolean NOT NULL,
    regions text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    synthetic boolean DEFAULT false NOT NULL,
    app_name text,
    health_authority_id bigint,
    revised_at timestamp with time zone,
    revised_report_type public.report_type,
    revised_transmission_risk smallint,
    revised_days_since_onset smallint,
    revised_authority_id bigint,
    CONSTRAINT exposure_check CHECK ((revised_at >= created_at)),
    CONSTRAINT exposure_check1 CHECK (((revised_at IS NULL) = (revised_report_type IS NULL))),
    CONSTRAINT exposure_check2 CHECK (((revised_at IS NULL) = (revised_transmission_risk IS NULL))),
    CONSTRAINT exposure_check3 CHECK (((revised_at IS NOT NULL) OR ((revised_days_since_onset IS NULL) AND (revised_authority_id IS NULL)))),
    CONSTRAINT exposure_check4 CHECK (((NOT synthetic) OR ((revised_at IS NULL) AND (app_name IS NULL) AND (health_authority_id IS NULL)))),
    CONSTRAINT exposure_days_since_onset_check CHECK (((days_since_onset >= '-14'::integer) AND (days_since_onset <= 14))),
    CONSTRAINT exposure_exposure_key_check CHECK ((octet_length(exposure_key) = 16)),
    CONSTRAINT exposure_interval_count_check CHECK (((interval_count >= 1) AND (interval_count <= 144))),
    CONSTRAINT exposure_interval_number_check CHECK (((interval_number >= 0) AND (interval_number <= (2147483647 - 144)))),
    CONSTRAINT exposure_regions_check CHECK ((cardinality(regions) > 0)),
    CONSTRAINT exposure_report_type_check CHECK ((report_type <> 'negative'::public.report_type)),
    CONSTRAINT exposure_revised_days_since_onset_check CHECK (((revised_days_since_onset >= '-14'::integer) AND (revised_days_since_onset <= 14))),
    CONSTRAINT exposure_revised_transmission_risk_check CHECK (((revised_transmission_risk >= 0) AND (revised_transmission_risk <= 8))),
    CONSTRAINT exposure_transmission_risk_check CHECK (((transmission_risk >= 0) AND (transmission_risk <= 8)))
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_insert_scale_factor='0.05');

CREATE FUNCTION public.key_fate(batch public.batch, exposure public.exposure) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN (NOT (batch).with_keys) THEN 'left_out'::text WHEN (NOT (((exposure).regions && (batch).input_regions) OR (((batch).travelers = 'include'::text) AND (exposure).traveler))) THEN 'other_region'::text WHEN ((exposure).regions && (batch).exclude_regions) THEN 'excluded_region'::text WHEN (((batch).travelers = 'exclude'::text) AND (exposure).traveler) THEN 'traveler'::text WHEN (((exposure).revised_report_type = 'negative'::public.report_type) AND ((exposure).revised_at < (batch).revisions_to)) THEN 'revoked'::text WHEN (to_timestamp((((((exposure).interval_number + (exposure).interval_count))::bigint * 600))::double precision) < (batch).cutoff) THEN 'expired'::text ELSE 'released'::text END;

CREATE FUNCTION public.batch_revisions(wanted_batch bigint, wanted_carriers bigint[], wanted_withdrawn bigint[]) RETURNS TABLE(exposure_key bytea, report_type public.report_type, transmission_risk smallint, days_since_onset smallint, interval_number integer, interval_count smallint, in_span boolean, fate text)
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 WITH told AS (
          SELECT exposure_1.exposure_key AS key,
             true AS in_span,
             false AS retold
            FROM (public.batch batch_1
              JOIN public.exposure exposure_1 ON (((exposure_1.revised_at >= batch_1.starts_at) AND (exposure_1.revised_at < batch_1.ends_at))))
           WHERE (batch_1.id = batch_revisions.wanted_batch)
         UNION ALL
          SELECT exposure_1.exposure_key,
             false,
             true
            FROM (public.batch batch_1
              JOIN public.exposure exposure_1 ON (((exposure_1.created_at >= batch_1.starts_at) AND (exposure_1.created_at < batch_1.ends_at))))
           WHERE ((batch_1.id = batch_revisions.wanted_batch) AND batch_1.supplement AND (exposure_1.revised_report_type = 'negative'::public.report_type) AND (exposure_1.revised_at < batch_1.revisions_to) AND (EXISTS ( SELECT
                    FROM public.batch earlier
                   WHERE ((earlier.id IN ( SELECT public.batch_chain(batch_revisions.wanted_batch) AS batch_chain)) AND (earlier.id = ANY (batch_revisions.wanted_withdrawn)) AND (public.key_fate(earlier.*, exposure_1.*) = 'released'::text)))))
         ), once AS (
          SELECT told.key,
             bool_or(told.in_span) AS in_span,
             bool_or(told.retold) AS retold
            FROM told
           GROUP BY told.key
         )
  SELECT exposure.exposure_key,
     exposure.revised_report_type,
     exposure.revised_transmission_risk,
     exposure.revised_days_since_onset,
     exposure.interval_number,
     exposure.interval_count,
     once.in_span,
         CASE
             WHEN (to_timestamp(((((exposure.interval_number + exposure.interval_count))::bigint * 600))::double precision) < batch.cutoff) THEN 'expired'::text
             WHEN once.retold THEN 'retold'::text
             WHEN ((exposure.created_at >= batch.starts_at) AND (exposure.created_at < batch.ends_at) AND (public.key_fate(batch.*, exposure.*) = ANY (ARRAY['released'::text, 'revoked'::text]))) THEN 'in_state'::text
             WHEN ((carrier.revisions_to IS NOT NULL) AND (exposure.revised_at < carrier.revisions_to)) THEN 'in_state'::text
             WHEN (carrier.revisions_to IS NOT NULL) THEN 'released'::text
             WHEN (carrier.was_out AND (exposure.revised_report_type = 'negative'::public.report_type)) THEN 'released'::text
             WHEN carrier.would_have THEN 'carrier_not_released'::text
             ELSE 'not_carried'::text
         END AS "case"
    FROM (((once
      JOIN public.exposure ON ((exposure.exposure_key = once.key)))
      JOIN public.batch ON ((batch.id = batch_revisions.wanted_batch)))
      CROSS JOIN LATERAL ( SELECT max(other.revisions_to) FILTER (WHERE ((other.id = ANY (batch_revisions.wanted_carriers)) AND (public.key_fate(other.*, exposure.*) = 'released'::text))) AS revisions_to,
             bool_or(((other.id = ANY (batch_revisions.wanted_withdrawn)) AND (public.key_fate(other.*, exposure.*) = 'released'::text))) AS was_out,
             bool_or((public.key_fate(other.*, exposure.*) = ANY (ARRAY['released'::text, 'revoked'::text]))) AS would_have
            FROM public.batch other
           WHERE ((other.feed_id = batch.feed_id) AND (tstzrange(other.starts_at, other.ends_at) @> exposure.created_at))) carrier);
END;

CREATE FUNCTION public.batch_rows(wanted_batch bigint) RETURNS TABLE(exposure_key bytea, created_at timestamp with time zone, report_type public.report_type, transmission_risk smallint, days_since_onset smallint, interval_number integer, interval_count smallint, synthetic boolean, fate text)
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
 SELECT exposure.exposure_key,
     exposure.created_at,
         CASE
             WHEN (exposure.revised_at < batch.revisions_to) THEN exposure.revised_report_type
             ELSE exposure.report_type
         END AS report_type,
         CASE
             WHEN (exposure.revised_at < batch.revisions_to) THEN exposure.revised_transmission_risk
             ELSE exposure.transmission_risk
         END AS transmission_risk,
         CASE
             WHEN (exposure.revised_at < batch.revisions_to) THEN exposure.revised_days_since_onset
             ELSE exposure.days_since_onset
         END AS days_since_onset,
     exposure.interval_number,
     exposure.interval_count,
     exposure.synthetic,
     public.key_fate(batch.*, exposure.*) AS key_fate
    FROM (public.batch
      JOIN public.exposure ON (((exposure.created_at >= batch.starts_at) AND (exposure.created_at < batch.ends_at))))
   WHERE (batch.id = batch_rows.wanted_batch);
END;

CREATE FUNCTION public.canonical_json(value jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
    AS $_$
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
END $_$;

CREATE TABLE public.release_clock (
    only_row boolean DEFAULT true NOT NULL,
    width_minutes integer NOT NULL,
    closed_through timestamp with time zone NOT NULL,
    rewritten_through timestamp with time zone NOT NULL,
    settable boolean DEFAULT false NOT NULL,
    CONSTRAINT release_clock_check CHECK ((rewritten_through <= closed_through)),
    CONSTRAINT release_clock_only_row_check CHECK (only_row),
    CONSTRAINT release_clock_width_minutes_check CHECK ((((width_minutes >= 1) AND (width_minutes <= 1440)) AND ((1440 % width_minutes) = 0)))
);

CREATE FUNCTION public.hold_release_clock() RETURNS timestamp with time zone
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    BEGIN ATOMIC
 SELECT release_clock.closed_through
    FROM public.release_clock
  FOR SHARE OF release_clock;
END;

CREATE FUNCTION public.keyserver_now() RETURNS timestamp with time zone
    LANGUAGE sql
    RETURN clock_timestamp();

CREATE FUNCTION public.publish_keys(p_held_from timestamp with time zone, p_embargo interval, p_report_type public.report_type, p_traveler boolean, p_regions text[], p_app_name text, p_health_authority_id bigint, p_exposure_keys bytea[], p_interval_numbers integer[], p_interval_counts smallint[], p_transmission_risks smallint[], p_days_since_onset smallint[], p_revised_keys bytea[], p_revised_transmission_risks smallint[], p_revised_days_since_onset smallint[], p_shard smallint, p_publish bigint[], p_teks bigint, p_revisions bigint, p_oldest_tek_days bigint[], p_onset_age_days bigint[], p_missing_onset bigint, p_platform integer, p_oldest_bucket integer, p_onset_bucket integer, p_profile_keys smallint, p_profile_oldest_days smallint, p_marginal_whats text[], p_marginal_values smallint[], p_marginal_counts bigint[], OUT inserted integer, OUT revised integer) RETURNS record
    LANGUAGE plpgsql
    AS $$
DECLARE
    now     timestamptz := keyserver_now();
    base    timestamptz := p_held_from;
    through timestamptz;
    width   integer;
BEGIN
    inserted := 0;
    revised := 0;
    SELECT width_minutes INTO width FROM release_clock;
    IF base IS NULL THEN
        base := window_start(now, width);
        PERFORM pg_advisory_xact_lock_shared(1, window_lock(base));
        SELECT closed_through INTO through FROM release_clock;
        IF through <= base IS NOT TRUE
           OR EXISTS (SELECT FROM exposure WHERE exposure_key = ANY (p_exposure_keys)) THEN
            RETURN;
        END IF;
    END IF;

    IF cardinality(p_exposure_keys) > 0 THEN
        -- T2: a key whose embargo is over is published now.
        INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset,
                              report_type, traveler, regions, created_at, app_name, health_authority_id)
        SELECT sent.key, sent.number, sent.count, sent.risk, sent.days, p_report_type, p_traveler, p_regions,
               greatest(base, window_start(to_timestamp((sent.number + sent.count)::double precision * 600) + p_embargo,
                                           width)),
               p_app_name, p_health_authority_id
          FROM unnest(p_exposure_keys, p_interval_numbers, p_interval_counts, p_transmission_risks,
                      p_days_since_onset) AS sent (key, number, count, risk, days);
        GET DIAGNOSTICS inserted = ROW_COUNT;
    END IF;

    IF cardinality(p_revised_keys) > 0 THEN
        UPDATE exposure
           SET revised_at = greatest(base, exposure.created_at),
               revised_report_type = p_report_type,
               revised_transmission_risk = sent.risk,
               revised_days_since_onset = sent.days,
               revised_authority_id = p_health_authority_id
          FROM unnest(p_revised_keys, p_revised_transmission_risks, p_revised_days_since_onset)
               AS sent (key, risk, days)
         WHERE exposure.exposure_key = sent.key AND exposure.revised_at IS NULL;
        GET DIAGNOSTICS revised = ROW_COUNT;
    END IF;

    IF p_publish IS NOT NULL THEN
        INSERT INTO upload_stats AS counter (health_authority_id, hour, shard, publish, teks, revisions,
                                             oldest_tek_days, onset_age_days, missing_onset)
        VALUES (p_health_authority_id, window_start(now, 60), p_shard, p_publish, p_teks, p_revisions,
                p_oldest_tek_days, p_onset_age_days, p_missing_onset)
        ON CONFLICT (health_authority_id, hour, shard) DO UPDATE
           SET publish[p_platform] = counter.publish[p_platform] + excluded.publish[p_platform],
               teks = counter.teks + excluded.teks,
               revisions = counter.revisions + excluded.revisions,
               oldest_tek_days[p_oldest_bucket] =
                   counter.oldest_tek_days[p_oldest_bucket] + excluded.oldest_tek_days[p_oldest_bucket],
               onset_age_days[p_onset_bucket] =
                   counter.onset_age_days[p_onset_bucket] + excluded.onset_age_days[p_onset_bucket],
               missing_onset = counter.missing_onset + excluded.missing_onset;
    END IF;

    IF p_profile_keys IS NOT NULL THEN
        INSERT INTO profile AS counter (day, report_type, keys, oldest_days, shard, uploads)
        VALUES ((now AT TIME ZONE 'UTC')::date, p_report_type, p_profile_keys, p_profile_oldest_days, p_shard, 1)
        ON CONFLICT (day, report_type, keys, oldest_days, shard) DO UPDATE
           SET uploads = counter.uploads + excluded.uploads;
        INSERT INTO profile_marginal AS counter (day, what, value, shard, count)
        SELECT (now AT TIME ZONE 'UTC')::date, marginal.what, marginal.value, p_shard, marginal.added
          FROM unnest(p_marginal_whats, p_marginal_values, p_marginal_counts) AS marginal (what, value, added)
        ON CONFLICT (day, what, value, shard) DO UPDATE
           SET count = counter.count + excluded.count;
    END IF;
END $$;

CREATE FUNCTION public.refuse_change_of_history() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'audit events are never changed or removed' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION public.refuse_closed_window() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    through timestamptz;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT closed_through INTO through FROM release_clock, changed WHERE created_at < closed_through LIMIT 1;
    ELSE
        SELECT closed_through INTO through FROM release_clock, changed WHERE revised_at < closed_through LIMIT 1;
    END IF;
    IF FOUND AND current_user <> 'keyserver_rewriter' THEN
        RAISE EXCEPTION 'a window that ends at or before % is closed', through
            USING ERRCODE = 'check_violation', CONSTRAINT = 'closed_window';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION public.refuse_unrevoking() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'a revoked signing key stays revoked'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'signing_key_revoked_once';
END $$;

CREATE FUNCTION public.refuse_way_back() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.window_lock(window_start timestamp with time zone) RETURNS integer
    LANGUAGE sql IMMUTABLE
    RETURN ((EXTRACT(epoch FROM window_start) / (60)::numeric))::integer;

CREATE FUNCTION public.window_start(moment timestamp with time zone, width_minutes integer) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE
    RETURN date_bin(make_interval(mins => width_minutes), moment, '1970-01-01 00:00:00+00'::timestamp with time zone);

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.app_attestation (
    app_name text NOT NULL,
    platform text NOT NULL,
    kind text NOT NULL,
    settings jsonb NOT NULL,
    CONSTRAINT app_attestation_kind_check CHECK ((kind = ANY (ARRAY['play-integrity'::text, 'app-attest'::text]))),
    CONSTRAINT app_attestation_platform_check CHECK ((platform = ANY (ARRAY['android'::text, 'ios'::text])))
);

CREATE TABLE public.attestation_seen (
    mac bytea NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    CONSTRAINT attestation_seen_mac_check CHECK ((octet_length(mac) = 32))
);

CREATE TABLE public.audit_event (
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    body bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_event_check CHECK ((hash = sha256(body))),
    CONSTRAINT audit_event_seq_check CHECK ((seq > 0))
);

CREATE TABLE public.authorised_app (
    name text NOT NULL,
    regions text[] NOT NULL,
    bypass_verification boolean DEFAULT false NOT NULL,
    bypass_revision_token boolean DEFAULT false NOT NULL,
    CONSTRAINT authorised_app_name_check CHECK (((name <> ''::text) AND (name = lower(name)))),
    CONSTRAINT authorised_app_regions_check CHECK ((cardinality(regions) > 0))
);

CREATE TABLE public.authorised_app_authority (
    app_name text NOT NULL,
    health_authority_id bigint NOT NULL
);

ALTER TABLE public.batch ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.batch_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.batch_signing_key (
    batch_id bigint NOT NULL,
    "position" smallint NOT NULL,
    signing_key_id bigint NOT NULL,
    purpose text DEFAULT 'export'::text NOT NULL,
    CONSTRAINT batch_signing_key_position_check CHECK ((("position" >= 1) AND ("position" <= 10))),
    CONSTRAINT batch_signing_key_purpose_check CHECK ((purpose = 'export'::text))
);

CREATE TABLE public.closed_window (
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    keys integer NOT NULL,
    synthetic_keys integer NOT NULL,
    revisions integer NOT NULL,
    closed_at timestamp with time zone NOT NULL,
    CONSTRAINT closed_window_check CHECK ((ends_at > starts_at)),
    CONSTRAINT closed_window_check1 CHECK (((synthetic_keys >= 0) AND (synthetic_keys <= keys))),
    CONSTRAINT closed_window_keys_check CHECK ((keys >= 0)),
    CONSTRAINT closed_window_revisions_check CHECK ((revisions >= 0))
);

CREATE TABLE public.deletion (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    app_name text NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    carried bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    CONSTRAINT deletion_check CHECK ((ends_at > starts_at)),
    CONSTRAINT deletion_reason_check CHECK ((reason <> ''::text))
);

ALTER TABLE public.deletion ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.deletion_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.deletion_window (
    deletion_id bigint NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    keys integer NOT NULL,
    revisions integer NOT NULL,
    CONSTRAINT deletion_window_keys_check CHECK ((keys >= 0)),
    CONSTRAINT deletion_window_revisions_check CHECK ((revisions >= 0))
);

CREATE TABLE public.feed (
    id bigint NOT NULL,
    name text NOT NULL,
    root text NOT NULL,
    output_region text NOT NULL,
    input_regions text[] NOT NULL,
    exclude_regions text[] DEFAULT '{}'::text[] NOT NULL,
    travelers text NOT NULL,
    period_minutes integer NOT NULL,
    active_from timestamp with time zone NOT NULL,
    active_thru timestamp with time zone,
    max_keys integer NOT NULL,
    padding_minimum integer NOT NULL,
    padding_spread integer NOT NULL,
    development boolean NOT NULL,
    paused boolean NOT NULL,
    last_release_no bigint DEFAULT 0 NOT NULL,
    index_sha256 bytea,
    padding_empty boolean DEFAULT false NOT NULL,
    CONSTRAINT feed_check CHECK ((active_thru > active_from)),
    CONSTRAINT feed_index_sha256_check CHECK ((octet_length(index_sha256) = 32)),
    CONSTRAINT feed_input_regions_check CHECK ((cardinality(input_regions) > 0)),
    CONSTRAINT feed_max_keys_check CHECK ((max_keys > 0)),
    CONSTRAINT feed_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9-]*$'::text)),
    CONSTRAINT feed_output_region_check CHECK ((output_region <> ''::text)),
    CONSTRAINT feed_padding_minimum_check CHECK ((padding_minimum >= 0)),
    CONSTRAINT feed_padding_spread_check CHECK ((padding_spread >= 0)),
    CONSTRAINT feed_period_minutes_check CHECK (((period_minutes > 0) AND ((1440 % period_minutes) = 0))),
    CONSTRAINT feed_root_check CHECK ((root ~ '^[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*$'::text)),
    CONSTRAINT feed_travelers_check CHECK ((travelers = ANY (ARRAY['by-region'::text, 'include'::text, 'exclude'::text])))
);

ALTER TABLE public.feed ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.feed_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.feed_signing_key (
    feed_id bigint NOT NULL,
    signing_key_id bigint NOT NULL,
    purpose text DEFAULT 'export'::text NOT NULL,
    CONSTRAINT feed_signing_key_purpose_check CHECK ((purpose = 'export'::text))
);

CREATE TABLE public.file (
    batch_id bigint NOT NULL,
    number smallint NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    keys integer NOT NULL,
    revised_keys integer NOT NULL,
    export_sha256 bytea NOT NULL,
    name text,
    zip_sha256 bytea,
    zip_bytes integer,
    compressor text,
    status text DEFAULT 'staged'::text NOT NULL,
    feed_id bigint NOT NULL,
    release_no bigint,
    released_at timestamp with time zone,
    left_index_at timestamp with time zone,
    confirmed_at timestamp with time zone,
    CONSTRAINT file_check CHECK (((name IS NULL) = (zip_sha256 IS NULL))),
    CONSTRAINT file_check1 CHECK (((name IS NULL) = (zip_bytes IS NULL))),
    CONSTRAINT file_check2 CHECK (((name IS NULL) = (compressor IS NULL))),
    CONSTRAINT file_check3 CHECK (((release_no IS NULL) = (released_at IS NULL))),
    CONSTRAINT file_check4 CHECK (((status = 'staged'::text) OR (release_no IS NOT NULL))),
    CONSTRAINT file_export_sha256_check CHECK ((octet_length(export_sha256) = 32)),
    CONSTRAINT file_keys_check CHECK ((keys >= 0)),
    CONSTRAINT file_number_check CHECK ((number > 0)),
    CONSTRAINT file_revised_keys_check CHECK ((revised_keys >= 0)),
    CONSTRAINT file_status_check CHECK ((status = ANY (ARRAY['staged'::text, 'released'::text, 'withdrawing'::text, 'withdrawn'::text, 'expired'::text, 'deleted'::text]))),
    CONSTRAINT file_zip_bytes_check CHECK ((zip_bytes > 0)),
    CONSTRAINT file_zip_sha256_check CHECK ((octet_length(zip_sha256) = 32))
);

CREATE TABLE public.health_authority (
    id bigint NOT NULL,
    issuer text NOT NULL,
    audience text NOT NULL,
    name text NOT NULL,
    jwks_uri text,
    stats_enabled boolean DEFAULT true NOT NULL,
    certificate_max_life interval DEFAULT '01:00:00'::interval NOT NULL,
    CONSTRAINT health_authority_audience_check CHECK ((audience <> ''::text)),
    CONSTRAINT health_authority_certificate_max_life_check CHECK (((certificate_max_life >= '00:01:00'::interval) AND (certificate_max_life <= '7 days'::interval))),
    CONSTRAINT health_authority_issuer_check CHECK ((issuer <> ''::text)),
    CONSTRAINT health_authority_jwks_uri_check CHECK ((jwks_uri ~~ 'https://%'::text)),
    CONSTRAINT health_authority_name_check CHECK ((name <> ''::text))
);

ALTER TABLE public.health_authority ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.health_authority_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.health_authority_key (
    health_authority_id bigint NOT NULL,
    kid text NOT NULL,
    public_key text NOT NULL,
    valid_from timestamp with time zone NOT NULL,
    valid_thru timestamp with time zone,
    CONSTRAINT health_authority_key_check CHECK ((valid_thru >= valid_from)),
    CONSTRAINT health_authority_key_kid_check CHECK ((kid <> ''::text))
);

CREATE TABLE public.profile (
    day date NOT NULL,
    report_type public.report_type NOT NULL,
    keys smallint NOT NULL,
    oldest_days smallint NOT NULL,
    shard smallint NOT NULL,
    uploads bigint NOT NULL,
    CONSTRAINT profile_keys_check CHECK (((keys >= 1) AND (keys <= 30))),
    CONSTRAINT profile_oldest_days_check CHECK (((oldest_days >= 0) AND (oldest_days <= 15))),
    CONSTRAINT profile_shard_check CHECK (((shard >= 0) AND (shard <= 15)))
);

CREATE TABLE public.profile_marginal (
    day date NOT NULL,
    what text NOT NULL,
    value smallint NOT NULL,
    shard smallint NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT profile_marginal_shard_check CHECK (((shard >= 0) AND (shard <= 15))),
    CONSTRAINT profile_marginal_what_check CHECK ((what = ANY (ARRAY['onset_days'::text, 'transmission_risk'::text, 'interval_count'::text, 'traveler'::text])))
);

CREATE TABLE public.quality_result (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    suite text NOT NULL,
    subject text NOT NULL,
    batch_id bigint,
    feed_id bigint,
    expectation text NOT NULL,
    owner text NOT NULL,
    reason text NOT NULL,
    severity text NOT NULL,
    met boolean NOT NULL,
    expected text NOT NULL,
    found text NOT NULL,
    observed double precision,
    run text,
    CONSTRAINT quality_result_expectation_check CHECK ((expectation <> ''::text)),
    CONSTRAINT quality_result_severity_check CHECK ((severity = ANY (ARRAY['block'::text, 'warn'::text]))),
    CONSTRAINT quality_result_subject_check CHECK ((subject <> ''::text)),
    CONSTRAINT quality_result_suite_check CHECK ((suite <> ''::text))
);

ALTER TABLE public.quality_result ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.quality_result_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.retention (
    only_row boolean DEFAULT true NOT NULL,
    period interval DEFAULT '14 days'::interval NOT NULL,
    deleted_through timestamp with time zone,
    CONSTRAINT retention_only_row_check CHECK (only_row),
    CONSTRAINT retention_period_check CHECK (((period > '00:00:00'::interval) AND (period <= '14 days'::interval)))
);

CREATE TABLE public.revision_key (
    id bigint NOT NULL,
    aad bytea,
    wrapped_key bytea,
    created_at timestamp with time zone NOT NULL,
    allowed boolean DEFAULT true NOT NULL,
    destroyed_at timestamp with time zone,
    CONSTRAINT revision_key_aad_check CHECK ((octet_length(aad) = 16)),
    CONSTRAINT revision_key_check CHECK (((wrapped_key IS NULL) = (destroyed_at IS NOT NULL))),
    CONSTRAINT revision_key_check1 CHECK (((aad IS NULL) = (destroyed_at IS NOT NULL))),
    CONSTRAINT revision_key_check2 CHECK (((destroyed_at IS NULL) OR (NOT allowed)))
);

ALTER TABLE public.revision_key ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.revision_key_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.signature (
    export_sha256 bytea NOT NULL,
    signing_key_id bigint NOT NULL,
    signature bytea NOT NULL,
    CONSTRAINT signature_export_sha256_check CHECK ((octet_length(export_sha256) = 32))
);

CREATE TABLE public.signing_key (
    id bigint NOT NULL,
    name text NOT NULL,
    key_id text NOT NULL,
    key_version text NOT NULL,
    public_key text NOT NULL,
    active_from timestamp with time zone NOT NULL,
    active_thru timestamp with time zone,
    revoked_at timestamp with time zone,
    purpose text DEFAULT 'export'::text NOT NULL,
    CONSTRAINT signing_key_check CHECK ((active_thru >= active_from)),
    CONSTRAINT signing_key_key_id_check CHECK ((key_id ~ '^[A-Za-z0-9_]+$'::text)),
    CONSTRAINT signing_key_key_version_check CHECK ((key_version ~ '^[A-Za-z0-9_]+$'::text)),
    CONSTRAINT signing_key_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_-]*$'::text)),
    CONSTRAINT signing_key_purpose_check CHECK ((purpose = ANY (ARRAY['export'::text, 'transparency'::text])))
);

ALTER TABLE public.signing_key ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.signing_key_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.transparency_line (
    feed_id bigint NOT NULL,
    number bigint NOT NULL,
    day date NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    keys integer NOT NULL,
    zip_sha256 bytea NOT NULL,
    export_sha256 bytea NOT NULL,
    CONSTRAINT transparency_line_export_sha256_check CHECK ((octet_length(export_sha256) = 32)),
    CONSTRAINT transparency_line_keys_check CHECK ((keys >= 0)),
    CONSTRAINT transparency_line_kind_check CHECK ((kind = ANY (ARRAY['release'::text, 'withdrawal'::text]))),
    CONSTRAINT transparency_line_number_check CHECK ((number > 0)),
    CONSTRAINT transparency_line_zip_sha256_check CHECK ((octet_length(zip_sha256) = 32))
);

CREATE TABLE public.transparency_segment (
    feed_id bigint NOT NULL,
    day date NOT NULL,
    closed_at timestamp with time zone NOT NULL,
    head_seq bigint NOT NULL,
    head_sha256 bytea NOT NULL,
    sha256 bytea NOT NULL,
    CONSTRAINT transparency_segment_head_seq_check CHECK ((head_seq >= 0)),
    CONSTRAINT transparency_segment_head_sha256_check CHECK ((octet_length(head_sha256) = 32)),
    CONSTRAINT transparency_segment_sha256_check CHECK ((octet_length(sha256) = 32))
);

CREATE TABLE public.transparency_signature (
    sha256 bytea NOT NULL,
    signing_key_id bigint NOT NULL,
    purpose text DEFAULT 'transparency'::text NOT NULL,
    signature bytea NOT NULL,
    CONSTRAINT transparency_signature_purpose_check CHECK ((purpose = 'transparency'::text)),
    CONSTRAINT transparency_signature_sha256_check CHECK ((octet_length(sha256) = 32))
);

CREATE TABLE public.upload_stats (
    health_authority_id bigint NOT NULL,
    hour timestamp with time zone NOT NULL,
    shard smallint NOT NULL,
    publish bigint[] NOT NULL,
    teks bigint NOT NULL,
    revisions bigint NOT NULL,
    oldest_tek_days bigint[] NOT NULL,
    onset_age_days bigint[] NOT NULL,
    missing_onset bigint NOT NULL,
    CONSTRAINT upload_stats_oldest_tek_days_check CHECK ((cardinality(oldest_tek_days) = 16)),
    CONSTRAINT upload_stats_onset_age_days_check CHECK ((cardinality(onset_age_days) = 30)),
    CONSTRAINT upload_stats_publish_check CHECK ((cardinality(publish) = 3)),
    CONSTRAINT upload_stats_shard_check CHECK (((shard >= 0) AND (shard <= 15)))
);

CREATE TABLE public.verification_api_key (
    id bigint NOT NULL,
    realm_id bigint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    key_mac bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT verification_api_key_key_mac_check CHECK ((octet_length(key_mac) = 32)),
    CONSTRAINT verification_api_key_kind_check CHECK ((kind = ANY (ARRAY['admin'::text, 'device'::text]))),
    CONSTRAINT verification_api_key_name_check CHECK ((name <> ''::text))
);

ALTER TABLE public.verification_api_key ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.verification_api_key_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.verification_code (
    realm_id bigint NOT NULL,
    uuid uuid NOT NULL,
    short_mac bytea NOT NULL,
    long_mac bytea NOT NULL,
    nonce_mac bytea,
    test_type text NOT NULL,
    symptom_date date,
    test_date date,
    expires_at timestamp with time zone NOT NULL,
    long_expires_at timestamp with time zone NOT NULL,
    attempts smallint DEFAULT 0 NOT NULL,
    claimed_at timestamp with time zone,
    CONSTRAINT verification_code_check CHECK (((nonce_mac IS NOT NULL) = (test_type = 'user-report'::text))),
    CONSTRAINT verification_code_long_mac_check CHECK ((octet_length(long_mac) = 32)),
    CONSTRAINT verification_code_nonce_mac_check CHECK ((octet_length(nonce_mac) = 32)),
    CONSTRAINT verification_code_short_mac_check CHECK ((octet_length(short_mac) = 32)),
    CONSTRAINT verification_code_test_type_check CHECK ((test_type = ANY (ARRAY['confirmed'::text, 'likely'::text, 'negative'::text, 'user-report'::text])))
);

CREATE TABLE public.verification_rate (
    realm_id bigint NOT NULL,
    what text NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    count integer NOT NULL,
    CONSTRAINT verification_rate_count_check CHECK ((count >= 0))
);

CREATE TABLE public.verification_realm (
    id bigint NOT NULL,
    name text NOT NULL,
    code_digits smallint DEFAULT 8 NOT NULL,
    code_lifetime interval DEFAULT '00:15:00'::interval NOT NULL,
    long_code_length smallint DEFAULT 16 NOT NULL,
    long_code_lifetime interval DEFAULT '24:00:00'::interval NOT NULL,
    test_types text[] DEFAULT '{confirmed,likely,negative}'::text[] NOT NULL,
    date_required boolean DEFAULT true NOT NULL,
    certificate_issuer text NOT NULL,
    certificate_audience text NOT NULL,
    certificate_kid text NOT NULL,
    certificate_lifetime interval DEFAULT '00:15:00'::interval NOT NULL,
    certificate_key text NOT NULL,
    token_key text NOT NULL,
    user_report boolean DEFAULT false NOT NULL,
    user_report_webhook text,
    user_report_again interval DEFAULT '90 days'::interval NOT NULL,
    requests_per_minute integer DEFAULT 600 NOT NULL,
    wrong_codes_per_hour integer DEFAULT 600 NOT NULL,
    codes_per_day integer DEFAULT 10000 NOT NULL,
    CONSTRAINT verification_realm_certificate_audience_check CHECK ((certificate_audience <> ''::text)),
    CONSTRAINT verification_realm_certificate_issuer_check CHECK ((certificate_issuer <> ''::text)),
    CONSTRAINT verification_realm_certificate_kid_check CHECK ((certificate_kid <> ''::text)),
    CONSTRAINT verification_realm_certificate_lifetime_check CHECK (((certificate_lifetime >= '00:01:00'::interval) AND (certificate_lifetime <= '01:00:00'::interval))),
    CONSTRAINT verification_realm_check CHECK ((token_key <> certificate_key)),
    CONSTRAINT verification_realm_check1 CHECK (((NOT user_report) OR (user_report_webhook IS NOT NULL))),
    CONSTRAINT verification_realm_code_digits_check CHECK (((code_digits >= 6) AND (code_digits <= 16))),
    CONSTRAINT verification_realm_code_lifetime_check CHECK (((code_lifetime >= '00:01:00'::interval) AND (code_lifetime <= '01:00:00'::interval))),
    CONSTRAINT verification_realm_codes_per_day_check CHECK ((codes_per_day > 0)),
    CONSTRAINT verification_realm_long_code_length_check CHECK (((long_code_length >= 12) AND (long_code_length <= 64))),
    CONSTRAINT verification_realm_long_code_lifetime_check CHECK (((long_code_lifetime >= '00:01:00'::interval) AND (long_code_lifetime <= '24:00:00'::interval))),
    CONSTRAINT verification_realm_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_-]{0,99}$'::text)),
    CONSTRAINT verification_realm_requests_per_minute_check CHECK ((requests_per_minute > 0)),
    CONSTRAINT verification_realm_test_types_check CHECK (((cardinality(test_types) > 0) AND (test_types <@ '{confirmed,likely,negative}'::text[]))),
    CONSTRAINT verification_realm_user_report_webhook_check CHECK ((user_report_webhook ~~ 'https://%'::text)),
    CONSTRAINT verification_realm_wrong_codes_per_hour_check CHECK ((wrong_codes_per_hour > 0))
);

ALTER TABLE public.verification_realm ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.verification_realm_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.verification_token (
    token_mac bytea NOT NULL,
    realm_id bigint NOT NULL,
    test_type text NOT NULL,
    symptom_date date,
    test_date date,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    CONSTRAINT verification_token_test_type_check CHECK ((test_type = ANY (ARRAY['confirmed'::text, 'likely'::text, 'negative'::text, 'user-report'::text]))),
    CONSTRAINT verification_token_token_mac_check CHECK ((octet_length(token_mac) = 32))
);

CREATE TABLE public.verification_user_report (
    phone_mac bytea NOT NULL,
    realm_id bigint NOT NULL,
    until timestamp with time zone NOT NULL,
    CONSTRAINT verification_user_report_phone_mac_check CHECK ((octet_length(phone_mac) = 32))
);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.app_attestation
    ADD CONSTRAINT app_attestation_pkey PRIMARY KEY (app_name, platform);

ALTER TABLE ONLY public.attestation_seen
    ADD CONSTRAINT attestation_seen_pkey PRIMARY KEY (mac);

ALTER TABLE ONLY public.audit_event
    ADD CONSTRAINT audit_event_hash_key UNIQUE (hash);

ALTER TABLE ONLY public.audit_event
    ADD CONSTRAINT audit_event_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY public.authorised_app_authority
    ADD CONSTRAINT authorised_app_authority_pkey PRIMARY KEY (app_name, health_authority_id);

ALTER TABLE ONLY public.authorised_app
    ADD CONSTRAINT authorised_app_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.batch
    ADD CONSTRAINT batch_feed_id_tstzrange_excl EXCLUDE USING gist (feed_id WITH =, tstzrange(starts_at, ends_at) WITH &&) WHERE ((replaces IS NULL));

ALTER TABLE ONLY public.batch
    ADD CONSTRAINT batch_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.batch
    ADD CONSTRAINT batch_replaces_key UNIQUE (replaces);

ALTER TABLE ONLY public.batch_signing_key
    ADD CONSTRAINT batch_signing_key_batch_id_signing_key_id_key UNIQUE (batch_id, signing_key_id);

ALTER TABLE ONLY public.batch_signing_key
    ADD CONSTRAINT batch_signing_key_pkey PRIMARY KEY (batch_id, "position");

ALTER TABLE ONLY public.closed_window
    ADD CONSTRAINT closed_window_pkey PRIMARY KEY (starts_at);

ALTER TABLE ONLY public.deletion
    ADD CONSTRAINT deletion_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.deletion_window
    ADD CONSTRAINT deletion_window_pkey PRIMARY KEY (deletion_id, starts_at);

ALTER TABLE ONLY public.exposure
    ADD CONSTRAINT exposure_pkey PRIMARY KEY (exposure_key);

ALTER TABLE ONLY public.feed
    ADD CONSTRAINT feed_name_key UNIQUE (name);

ALTER TABLE ONLY public.feed
    ADD CONSTRAINT feed_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.feed
    ADD CONSTRAINT feed_root_key UNIQUE (root);

ALTER TABLE ONLY public.feed_signing_key
    ADD CONSTRAINT feed_signing_key_pkey PRIMARY KEY (feed_id, signing_key_id);

ALTER TABLE ONLY public.file
    ADD CONSTRAINT file_feed_id_release_no_key UNIQUE (feed_id, release_no);

ALTER TABLE ONLY public.file
    ADD CONSTRAINT file_name_key UNIQUE (name);

ALTER TABLE ONLY public.file
    ADD CONSTRAINT file_pkey PRIMARY KEY (batch_id, number);

ALTER TABLE ONLY public.health_authority
    ADD CONSTRAINT health_authority_issuer_key UNIQUE (issuer);

ALTER TABLE ONLY public.health_authority_key
    ADD CONSTRAINT health_authority_key_pkey PRIMARY KEY (health_authority_id, kid);

ALTER TABLE ONLY public.health_authority
    ADD CONSTRAINT health_authority_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.profile_marginal
    ADD CONSTRAINT profile_marginal_pkey PRIMARY KEY (day, what, value, shard);

ALTER TABLE ONLY public.profile
    ADD CONSTRAINT profile_pkey PRIMARY KEY (day, report_type, keys, oldest_days, shard);

ALTER TABLE ONLY public.quality_result
    ADD CONSTRAINT quality_result_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.release_clock
    ADD CONSTRAINT release_clock_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.retention
    ADD CONSTRAINT retention_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.revision_key
    ADD CONSTRAINT revision_key_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.signature
    ADD CONSTRAINT signature_pkey PRIMARY KEY (export_sha256, signing_key_id);

ALTER TABLE ONLY public.signing_key
    ADD CONSTRAINT signing_key_id_purpose_key UNIQUE (id, purpose);

ALTER TABLE ONLY public.signing_key
    ADD CONSTRAINT signing_key_key_id_key_version_key UNIQUE (key_id, key_version);

ALTER TABLE ONLY public.signing_key
    ADD CONSTRAINT signing_key_name_key UNIQUE (name);

ALTER TABLE ONLY public.signing_key
    ADD CONSTRAINT signing_key_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.transparency_line
    ADD CONSTRAINT transparency_line_feed_id_name_kind_key UNIQUE (feed_id, name, kind);

ALTER TABLE ONLY public.transparency_line
    ADD CONSTRAINT transparency_line_pkey PRIMARY KEY (feed_id, number);

ALTER TABLE ONLY public.transparency_segment
    ADD CONSTRAINT transparency_segment_pkey PRIMARY KEY (feed_id, day);

ALTER TABLE ONLY public.transparency_signature
    ADD CONSTRAINT transparency_signature_pkey PRIMARY KEY (sha256, signing_key_id);

ALTER TABLE ONLY public.upload_stats
    ADD CONSTRAINT upload_stats_pkey PRIMARY KEY (health_authority_id, hour, shard);

ALTER TABLE ONLY public.verification_api_key
    ADD CONSTRAINT verification_api_key_key_mac_key UNIQUE (key_mac);

ALTER TABLE ONLY public.verification_api_key
    ADD CONSTRAINT verification_api_key_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.verification_api_key
    ADD CONSTRAINT verification_api_key_realm_id_name_key UNIQUE (realm_id, name);

ALTER TABLE ONLY public.verification_code
    ADD CONSTRAINT verification_code_long_mac_key UNIQUE (long_mac);

ALTER TABLE ONLY public.verification_code
    ADD CONSTRAINT verification_code_pkey PRIMARY KEY (realm_id, uuid);

ALTER TABLE ONLY public.verification_code
    ADD CONSTRAINT verification_code_short_mac_key UNIQUE (short_mac);

ALTER TABLE ONLY public.verification_rate
    ADD CONSTRAINT verification_rate_pkey PRIMARY KEY (realm_id, what);

ALTER TABLE ONLY public.verification_realm
    ADD CONSTRAINT verification_realm_name_key UNIQUE (name);

ALTER TABLE ONLY public.verification_realm
    ADD CONSTRAINT verification_realm_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.verification_token
    ADD CONSTRAINT verification_token_pkey PRIMARY KEY (token_mac);

ALTER TABLE ONLY public.verification_user_report
    ADD CONSTRAINT verification_user_report_pkey PRIMARY KEY (phone_mac);

CREATE INDEX audit_event_at ON public.audit_event USING btree (at);

CREATE INDEX batch_due ON public.batch USING btree (feed_id, id) WHERE (status = ANY (ARRAY['planned'::text, 'built'::text, 'checked'::text, 'signed'::text, 'verified'::text]));

CREATE INDEX batch_span ON public.batch USING gist (feed_id, tstzrange(starts_at, ends_at));

CREATE INDEX deletion_window_starts_at ON public.deletion_window USING btree (starts_at);

CREATE INDEX exposure_created_at ON public.exposure USING btree (created_at);

CREATE INDEX exposure_revised_at ON public.exposure USING btree (revised_at) WHERE (revised_at IS NOT NULL);

CREATE INDEX file_in_store ON public.file USING btree (batch_id) WHERE (status = ANY (ARRAY['released'::text, 'withdrawing'::text, 'expired'::text]));

CREATE INDEX file_unconfirmed ON public.file USING btree (feed_id, release_no) WHERE ((status = 'released'::text) AND (confirmed_at IS NULL));

CREATE INDEX quality_result_at ON public.quality_result USING btree (at);

CREATE INDEX quality_result_batch ON public.quality_result USING btree (batch_id, at) WHERE (batch_id IS NOT NULL);

CREATE INDEX quality_result_expectation ON public.quality_result USING btree (suite, expectation, at);

CREATE INDEX quality_result_missed ON public.quality_result USING btree (at) WHERE (NOT met);

CREATE INDEX quality_result_usual ON public.quality_result USING btree (feed_id, expectation, at) WHERE (observed IS NOT NULL);

CREATE INDEX verification_code_long_expires_at ON public.verification_code USING btree (long_expires_at);

CREATE INDEX verification_token_expires_at ON public.verification_token USING btree (expires_at);

CREATE INDEX verification_user_report_until ON public.verification_user_report USING btree (until);

CREATE TRIGGER audit_event_is_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_event FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_history();

CREATE TRIGGER batch_one_way BEFORE UPDATE OF status ON public.batch FOR EACH ROW EXECUTE FUNCTION public.refuse_way_back();

CREATE TRIGGER refuse_closed_window_insert AFTER INSERT ON public.exposure REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_closed_window();

CREATE TRIGGER refuse_closed_window_update AFTER UPDATE ON public.exposure REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_closed_window();

CREATE TRIGGER signing_key_revoked_once BEFORE UPDATE OF revoked_at ON public.signing_key FOR EACH ROW WHEN ((old.revoked_at IS NOT NULL)) EXECUTE FUNCTION public.refuse_unrevoking();

ALTER TABLE ONLY public.app_attestation
    ADD CONSTRAINT app_attestation_app_name_fkey FOREIGN KEY (app_name) REFERENCES public.authorised_app(name) ON DELETE CASCADE;

ALTER TABLE ONLY public.authorised_app_authority
    ADD CONSTRAINT authorised_app_authority_app_name_fkey FOREIGN KEY (app_name) REFERENCES public.authorised_app(name) ON DELETE CASCADE;

ALTER TABLE ONLY public.authorised_app_authority
    ADD CONSTRAINT authorised_app_authority_health_authority_id_fkey FOREIGN KEY (health_authority_id) REFERENCES public.health_authority(id);

ALTER TABLE ONLY public.batch
    ADD CONSTRAINT batch_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.batch
    ADD CONSTRAINT batch_replaces_fkey FOREIGN KEY (replaces) REFERENCES public.batch(id);

ALTER TABLE ONLY public.batch_signing_key
    ADD CONSTRAINT batch_signing_key_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES public.batch(id);

ALTER TABLE ONLY public.batch_signing_key
    ADD CONSTRAINT batch_signing_key_signing_key_id_fkey FOREIGN KEY (signing_key_id) REFERENCES public.signing_key(id);

ALTER TABLE ONLY public.batch_signing_key
    ADD CONSTRAINT batch_signing_key_signing_key_id_purpose_fkey FOREIGN KEY (signing_key_id, purpose) REFERENCES public.signing_key(id, purpose);

ALTER TABLE ONLY public.deletion_window
    ADD CONSTRAINT deletion_window_deletion_id_fkey FOREIGN KEY (deletion_id) REFERENCES public.deletion(id);

ALTER TABLE ONLY public.feed_signing_key
    ADD CONSTRAINT feed_signing_key_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.feed_signing_key
    ADD CONSTRAINT feed_signing_key_signing_key_id_fkey FOREIGN KEY (signing_key_id) REFERENCES public.signing_key(id);

ALTER TABLE ONLY public.feed_signing_key
    ADD CONSTRAINT feed_signing_key_signing_key_id_purpose_fkey FOREIGN KEY (signing_key_id, purpose) REFERENCES public.signing_key(id, purpose);

ALTER TABLE ONLY public.file
    ADD CONSTRAINT file_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES public.batch(id);

ALTER TABLE ONLY public.file
    ADD CONSTRAINT file_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.health_authority_key
    ADD CONSTRAINT health_authority_key_health_authority_id_fkey FOREIGN KEY (health_authority_id) REFERENCES public.health_authority(id);

ALTER TABLE ONLY public.quality_result
    ADD CONSTRAINT quality_result_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES public.batch(id);

ALTER TABLE ONLY public.quality_result
    ADD CONSTRAINT quality_result_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.signature
    ADD CONSTRAINT signature_signing_key_id_fkey FOREIGN KEY (signing_key_id) REFERENCES public.signing_key(id);

ALTER TABLE ONLY public.transparency_line
    ADD CONSTRAINT transparency_line_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.transparency_segment
    ADD CONSTRAINT transparency_segment_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES public.feed(id);

ALTER TABLE ONLY public.transparency_signature
    ADD CONSTRAINT transparency_signature_signing_key_id_purpose_fkey FOREIGN KEY (signing_key_id, purpose) REFERENCES public.signing_key(id, purpose);

ALTER TABLE ONLY public.upload_stats
    ADD CONSTRAINT upload_stats_health_authority_id_fkey FOREIGN KEY (health_authority_id) REFERENCES public.health_authority(id);

ALTER TABLE ONLY public.verification_api_key
    ADD CONSTRAINT verification_api_key_realm_id_fkey FOREIGN KEY (realm_id) REFERENCES public.verification_realm(id);

ALTER TABLE ONLY public.verification_code
    ADD CONSTRAINT verification_code_realm_id_fkey FOREIGN KEY (realm_id) REFERENCES public.verification_realm(id);

ALTER TABLE ONLY public.verification_rate
    ADD CONSTRAINT verification_rate_realm_id_fkey FOREIGN KEY (realm_id) REFERENCES public.verification_realm(id);

ALTER TABLE ONLY public.verification_token
    ADD CONSTRAINT verification_token_realm_id_fkey FOREIGN KEY (realm_id) REFERENCES public.verification_realm(id);

ALTER TABLE ONLY public.verification_user_report
    ADD CONSTRAINT verification_user_report_realm_id_fkey FOREIGN KEY (realm_id) REFERENCES public.verification_realm(id);

REVOKE USAGE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO keyserver_api;
GRANT USAGE ON SCHEMA public TO keyserver_pipeline;
GRANT USAGE ON SCHEMA public TO keyserver_rewriter;
GRANT USAGE ON SCHEMA public TO keyserver_auditor;
GRANT USAGE ON SCHEMA public TO keyserver_verification;
GRANT USAGE ON SCHEMA public TO keyserver_retention;

REVOKE ALL ON FUNCTION public.audit_append(events jsonb[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.audit_append(events jsonb[]) TO keyserver_pipeline;
GRANT ALL ON FUNCTION public.audit_append(events jsonb[]) TO keyserver_rewriter;
GRANT ALL ON FUNCTION public.audit_append(events jsonb[]) TO keyserver_retention;

GRANT SELECT,INSERT ON TABLE public.batch TO keyserver_pipeline;
GRANT SELECT ON TABLE public.batch TO keyserver_auditor;
GRANT SELECT ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(status) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(status) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(counts) ON TABLE public.batch TO keyserver_pipeline;

GRANT UPDATE(problem) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(problem) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(failed_runs) ON TABLE public.batch TO keyserver_pipeline;

GRANT UPDATE(claimed_by) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(claimed_by) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(claim_renewed_at) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(claim_renewed_at) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(reason) ON TABLE public.batch TO keyserver_pipeline;

GRANT UPDATE(failed_expectations) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(failed_expectations) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(held_at) ON TABLE public.batch TO keyserver_pipeline;
GRANT UPDATE(held_at) ON TABLE public.batch TO keyserver_retention;

GRANT UPDATE(carriers) ON TABLE public.batch TO keyserver_pipeline;

GRANT UPDATE(withdrawn_carriers) ON TABLE public.batch TO keyserver_pipeline;

GRANT UPDATE(code_version) ON TABLE public.batch TO keyserver_pipeline;

REVOKE ALL ON FUNCTION public.batch_chain(wanted_batch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.batch_chain(wanted_batch bigint) TO keyserver_pipeline;
GRANT ALL ON FUNCTION public.batch_chain(wanted_batch bigint) TO keyserver_retention;

GRANT SELECT ON TABLE public.exposure TO keyserver_api;
GRANT SELECT,INSERT ON TABLE public.exposure TO keyserver_pipeline;
GRANT SELECT,INSERT,DELETE ON TABLE public.exposure TO keyserver_rewriter;
GRANT SELECT,DELETE ON TABLE public.exposure TO keyserver_retention;

GRANT INSERT(exposure_key) ON TABLE public.exposure TO keyserver_api;

GRANT INSERT(interval_number) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(interval_number) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(interval_count) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(interval_count) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(transmission_risk) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(transmission_risk) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(days_since_onset) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(days_since_onset) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(report_type) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(report_type) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(traveler) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(traveler) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(regions) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(regions) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(created_at) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(created_at) ON TABLE public.exposure TO keyserver_auditor;

GRANT SELECT(synthetic) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(app_name) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(app_name) ON TABLE public.exposure TO keyserver_auditor;

GRANT INSERT(health_authority_id) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(health_authority_id) ON TABLE public.exposure TO keyserver_auditor;

GRANT UPDATE(revised_at) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(revised_at) ON TABLE public.exposure TO keyserver_auditor;

GRANT UPDATE(revised_report_type) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(revised_report_type) ON TABLE public.exposure TO keyserver_auditor;

GRANT UPDATE(revised_transmission_risk) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(revised_transmission_risk) ON TABLE public.exposure TO keyserver_auditor;

GRANT UPDATE(revised_days_since_onset) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(revised_days_since_onset) ON TABLE public.exposure TO keyserver_auditor;

GRANT UPDATE(revised_authority_id) ON TABLE public.exposure TO keyserver_api;
GRANT SELECT(revised_authority_id) ON TABLE public.exposure TO keyserver_auditor;

REVOKE ALL ON FUNCTION public.key_fate(batch public.batch, exposure public.exposure) FROM PUBLIC;
GRANT ALL ON FUNCTION public.key_fate(batch public.batch, exposure public.exposure) TO keyserver_pipeline;
GRANT ALL ON FUNCTION public.key_fate(batch public.batch, exposure public.exposure) TO keyserver_retention;

REVOKE ALL ON FUNCTION public.batch_revisions(wanted_batch bigint, wanted_carriers bigint[], wanted_withdrawn bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.batch_revisions(wanted_batch bigint, wanted_carriers bigint[], wanted_withdrawn bigint[]) TO keyserver_pipeline;
GRANT ALL ON FUNCTION public.batch_revisions(wanted_batch bigint, wanted_carriers bigint[], wanted_withdrawn bigint[]) TO keyserver_retention;

REVOKE ALL ON FUNCTION public.batch_rows(wanted_batch bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION public.batch_rows(wanted_batch bigint) TO keyserver_pipeline;
GRANT ALL ON FUNCTION public.batch_rows(wanted_batch bigint) TO keyserver_retention;

GRANT SELECT ON TABLE public.release_clock TO keyserver_api;
GRANT SELECT ON TABLE public.release_clock TO keyserver_pipeline;
GRANT SELECT ON TABLE public.release_clock TO keyserver_rewriter;
GRANT SELECT ON TABLE public.release_clock TO keyserver_auditor;
GRANT SELECT ON TABLE public.release_clock TO keyserver_verification;
GRANT SELECT ON TABLE public.release_clock TO keyserver_retention;

GRANT UPDATE(closed_through) ON TABLE public.release_clock TO keyserver_pipeline;

GRANT UPDATE(rewritten_through) ON TABLE public.release_clock TO keyserver_rewriter;

REVOKE ALL ON FUNCTION public.hold_release_clock() FROM PUBLIC;
GRANT ALL ON FUNCTION public.hold_release_clock() TO keyserver_retention;

REVOKE ALL ON FUNCTION public.publish_keys(p_held_from timestamp with time zone, p_embargo interval, p_report_type public.report_type, p_traveler boolean, p_regions text[], p_app_name text, p_health_authority_id bigint, p_exposure_keys bytea[], p_interval_numbers integer[], p_interval_counts smallint[], p_transmission_risks smallint[], p_days_since_onset smallint[], p_revised_keys bytea[], p_revised_transmission_risks smallint[], p_revised_days_since_onset smallint[], p_shard smallint, p_publish bigint[], p_teks bigint, p_revisions bigint, p_oldest_tek_days bigint[], p_onset_age_days bigint[], p_missing_onset bigint, p_platform integer, p_oldest_bucket integer, p_onset_bucket integer, p_profile_keys smallint, p_profile_oldest_days smallint, p_marginal_whats text[], p_marginal_values smallint[], p_marginal_counts bigint[], OUT inserted integer, OUT revised integer) FROM PUBLIC;
GRANT ALL ON FUNCTION public.publish_keys(p_held_from timestamp with time zone, p_embargo interval, p_report_type public.report_type, p_traveler boolean, p_regions text[], p_app_name text, p_health_authority_id bigint, p_exposure_keys bytea[], p_interval_numbers integer[], p_interval_counts smallint[], p_transmission_risks smallint[], p_days_since_onset smallint[], p_revised_keys bytea[], p_revised_transmission_risks smallint[], p_revised_days_since_onset smallint[], p_shard smallint, p_publish bigint[], p_teks bigint, p_revisions bigint, p_oldest_tek_days bigint[], p_onset_age_days bigint[], p_missing_onset bigint, p_platform integer, p_oldest_bucket integer, p_onset_bucket integer, p_profile_keys smallint, p_profile_oldest_days smallint, p_marginal_whats text[], p_marginal_values smallint[], p_marginal_counts bigint[], OUT inserted integer, OUT revised integer) TO keyserver_api;

GRANT SELECT ON TABLE public.alembic_version TO keyserver_pipeline;
GRANT SELECT ON TABLE public.alembic_version TO keyserver_api;
GRANT SELECT ON TABLE public.alembic_version TO keyserver_verification;

GRANT SELECT ON TABLE public.app_attestation TO keyserver_api;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.app_attestation TO keyserver_pipeline;
GRANT SELECT ON TABLE public.app_attestation TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.attestation_seen TO keyserver_api;
GRANT SELECT,DELETE ON TABLE public.attestation_seen TO keyserver_pipeline;
GRANT DELETE ON TABLE public.attestation_seen TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.attestation_seen TO keyserver_retention;

GRANT SELECT(seen_at) ON TABLE public.attestation_seen TO keyserver_auditor;
GRANT SELECT(seen_at) ON TABLE public.attestation_seen TO keyserver_retention;

GRANT SELECT ON TABLE public.audit_event TO keyserver_pipeline;
GRANT SELECT ON TABLE public.audit_event TO keyserver_auditor;

GRANT SELECT ON TABLE public.authorised_app TO keyserver_api;
GRANT SELECT,INSERT,DELETE ON TABLE public.authorised_app TO keyserver_pipeline;
GRANT SELECT ON TABLE public.authorised_app TO keyserver_auditor;

GRANT UPDATE(regions) ON TABLE public.authorised_app TO keyserver_pipeline;

GRANT UPDATE(bypass_verification) ON TABLE public.authorised_app TO keyserver_pipeline;

GRANT UPDATE(bypass_revision_token) ON TABLE public.authorised_app TO keyserver_pipeline;

GRANT SELECT ON TABLE public.authorised_app_authority TO keyserver_api;
GRANT SELECT,INSERT,DELETE ON TABLE public.authorised_app_authority TO keyserver_pipeline;
GRANT SELECT ON TABLE public.authorised_app_authority TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.batch_signing_key TO keyserver_pipeline;
GRANT SELECT ON TABLE public.batch_signing_key TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.closed_window TO keyserver_pipeline;
GRANT SELECT ON TABLE public.closed_window TO keyserver_auditor;

GRANT SELECT ON TABLE public.deletion TO keyserver_pipeline;
GRANT SELECT ON TABLE public.deletion TO keyserver_auditor;
GRANT SELECT,INSERT ON TABLE public.deletion TO keyserver_retention;

GRANT SELECT ON TABLE public.deletion_window TO keyserver_pipeline;
GRANT SELECT ON TABLE public.deletion_window TO keyserver_auditor;
GRANT SELECT,INSERT ON TABLE public.deletion_window TO keyserver_retention;

GRANT SELECT,INSERT ON TABLE public.feed TO keyserver_pipeline;
GRANT SELECT ON TABLE public.feed TO keyserver_auditor;
GRANT SELECT ON TABLE public.feed TO keyserver_retention;

GRANT UPDATE(output_region) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(input_regions) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(exclude_regions) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(travelers) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(period_minutes) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(active_from) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(active_thru) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(max_keys) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(padding_minimum) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(padding_spread) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(development) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(paused) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(last_release_no) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(index_sha256) ON TABLE public.feed TO keyserver_pipeline;

GRANT UPDATE(padding_empty) ON TABLE public.feed TO keyserver_pipeline;

GRANT SELECT,INSERT,DELETE ON TABLE public.feed_signing_key TO keyserver_pipeline;
GRANT SELECT ON TABLE public.feed_signing_key TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.file TO keyserver_pipeline;
GRANT SELECT ON TABLE public.file TO keyserver_auditor;
GRANT SELECT ON TABLE public.file TO keyserver_retention;

GRANT UPDATE(name) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(zip_sha256) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(zip_bytes) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(compressor) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(status) ON TABLE public.file TO keyserver_pipeline;
GRANT UPDATE(status) ON TABLE public.file TO keyserver_retention;

GRANT UPDATE(release_no) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(released_at) ON TABLE public.file TO keyserver_pipeline;

GRANT UPDATE(left_index_at) ON TABLE public.file TO keyserver_pipeline;
GRANT UPDATE(left_index_at) ON TABLE public.file TO keyserver_retention;

GRANT UPDATE(confirmed_at) ON TABLE public.file TO keyserver_pipeline;

GRANT SELECT ON TABLE public.health_authority TO keyserver_api;
GRANT SELECT,INSERT ON TABLE public.health_authority TO keyserver_pipeline;
GRANT SELECT ON TABLE public.health_authority TO keyserver_auditor;

GRANT UPDATE(audience) ON TABLE public.health_authority TO keyserver_pipeline;

GRANT UPDATE(name) ON TABLE public.health_authority TO keyserver_pipeline;

GRANT UPDATE(jwks_uri) ON TABLE public.health_authority TO keyserver_pipeline;

GRANT UPDATE(stats_enabled) ON TABLE public.health_authority TO keyserver_pipeline;

GRANT UPDATE(certificate_max_life) ON TABLE public.health_authority TO keyserver_pipeline;

GRANT SELECT ON TABLE public.health_authority_key TO keyserver_api;
GRANT SELECT,INSERT ON TABLE public.health_authority_key TO keyserver_pipeline;
GRANT SELECT ON TABLE public.health_authority_key TO keyserver_auditor;

GRANT UPDATE(valid_from) ON TABLE public.health_authority_key TO keyserver_pipeline;

GRANT UPDATE(valid_thru) ON TABLE public.health_authority_key TO keyserver_pipeline;

GRANT SELECT,INSERT,UPDATE ON TABLE public.profile TO keyserver_api;
GRANT SELECT ON TABLE public.profile TO keyserver_pipeline;
GRANT SELECT ON TABLE public.profile TO keyserver_auditor;
GRANT DELETE ON TABLE public.profile TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.profile TO keyserver_retention;

GRANT SELECT(day) ON TABLE public.profile TO keyserver_retention;

GRANT SELECT,INSERT,UPDATE ON TABLE public.profile_marginal TO keyserver_api;
GRANT SELECT ON TABLE public.profile_marginal TO keyserver_pipeline;
GRANT SELECT ON TABLE public.profile_marginal TO keyserver_auditor;
GRANT DELETE ON TABLE public.profile_marginal TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.profile_marginal TO keyserver_retention;

GRANT SELECT(day) ON TABLE public.profile_marginal TO keyserver_retention;

GRANT SELECT,INSERT ON TABLE public.quality_result TO keyserver_pipeline;
GRANT SELECT ON TABLE public.quality_result TO keyserver_auditor;
GRANT DELETE ON TABLE public.quality_result TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.quality_result TO keyserver_retention;

GRANT SELECT(at) ON TABLE public.quality_result TO keyserver_retention;

GRANT SELECT ON TABLE public.retention TO keyserver_pipeline;
GRANT SELECT ON TABLE public.retention TO keyserver_auditor;
GRANT SELECT ON TABLE public.retention TO keyserver_retention;

GRANT UPDATE(period) ON TABLE public.retention TO keyserver_pipeline;

GRANT UPDATE(deleted_through) ON TABLE public.retention TO keyserver_retention;

GRANT SELECT ON TABLE public.revision_key TO keyserver_api;
GRANT SELECT,INSERT ON TABLE public.revision_key TO keyserver_pipeline;

GRANT SELECT(id) ON TABLE public.revision_key TO keyserver_auditor;

GRANT UPDATE(aad) ON TABLE public.revision_key TO keyserver_pipeline;

GRANT UPDATE(wrapped_key) ON TABLE public.revision_key TO keyserver_pipeline;

GRANT SELECT(created_at) ON TABLE public.revision_key TO keyserver_auditor;

GRANT UPDATE(allowed) ON TABLE public.revision_key TO keyserver_pipeline;
GRANT SELECT(allowed) ON TABLE public.revision_key TO keyserver_auditor;

GRANT UPDATE(destroyed_at) ON TABLE public.revision_key TO keyserver_pipeline;
GRANT SELECT(destroyed_at) ON TABLE public.revision_key TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.signature TO keyserver_pipeline;
GRANT SELECT ON TABLE public.signature TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.signing_key TO keyserver_pipeline;
GRANT SELECT ON TABLE public.signing_key TO keyserver_auditor;

GRANT UPDATE(active_from) ON TABLE public.signing_key TO keyserver_pipeline;

GRANT UPDATE(active_thru) ON TABLE public.signing_key TO keyserver_pipeline;

GRANT UPDATE(revoked_at) ON TABLE public.signing_key TO keyserver_pipeline;

GRANT SELECT,INSERT ON TABLE public.transparency_line TO keyserver_pipeline;
GRANT SELECT ON TABLE public.transparency_line TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.transparency_segment TO keyserver_pipeline;
GRANT SELECT ON TABLE public.transparency_segment TO keyserver_auditor;

GRANT SELECT,INSERT ON TABLE public.transparency_signature TO keyserver_pipeline;
GRANT SELECT ON TABLE public.transparency_signature TO keyserver_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.upload_stats TO keyserver_api;
GRANT SELECT ON TABLE public.upload_stats TO keyserver_pipeline;
GRANT SELECT ON TABLE public.upload_stats TO keyserver_auditor;
GRANT DELETE ON TABLE public.upload_stats TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.upload_stats TO keyserver_retention;

GRANT SELECT(hour) ON TABLE public.upload_stats TO keyserver_retention;

GRANT SELECT ON TABLE public.verification_api_key TO keyserver_verification;
GRANT INSERT ON TABLE public.verification_api_key TO keyserver_pipeline;

GRANT SELECT(id) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(id) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT(realm_id) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(realm_id) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT(name) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(name) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT(kind) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(kind) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT(created_at) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(created_at) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT(revoked_at),UPDATE(revoked_at) ON TABLE public.verification_api_key TO keyserver_pipeline;
GRANT SELECT(revoked_at) ON TABLE public.verification_api_key TO keyserver_auditor;

GRANT SELECT,INSERT,DELETE ON TABLE public.verification_code TO keyserver_verification;
GRANT DELETE ON TABLE public.verification_code TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.verification_code TO keyserver_retention;

GRANT UPDATE(expires_at) ON TABLE public.verification_code TO keyserver_verification;

GRANT UPDATE(long_expires_at) ON TABLE public.verification_code TO keyserver_verification;
GRANT SELECT(long_expires_at) ON TABLE public.verification_code TO keyserver_auditor;
GRANT SELECT(long_expires_at) ON TABLE public.verification_code TO keyserver_retention;

GRANT UPDATE(attempts) ON TABLE public.verification_code TO keyserver_verification;

GRANT UPDATE(claimed_at) ON TABLE public.verification_code TO keyserver_verification;

GRANT SELECT,INSERT ON TABLE public.verification_rate TO keyserver_verification;
GRANT DELETE ON TABLE public.verification_rate TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.verification_rate TO keyserver_retention;

GRANT UPDATE(starts_at) ON TABLE public.verification_rate TO keyserver_verification;
GRANT SELECT(starts_at) ON TABLE public.verification_rate TO keyserver_auditor;
GRANT SELECT(starts_at) ON TABLE public.verification_rate TO keyserver_retention;

GRANT UPDATE(count) ON TABLE public.verification_rate TO keyserver_verification;

GRANT SELECT ON TABLE public.verification_realm TO keyserver_verification;
GRANT SELECT,INSERT ON TABLE public.verification_realm TO keyserver_pipeline;
GRANT SELECT ON TABLE public.verification_realm TO keyserver_auditor;

GRANT SELECT(id) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT SELECT(name) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(code_digits) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(code_lifetime) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(long_code_length) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(long_code_lifetime) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(test_types) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(date_required) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(certificate_lifetime) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(user_report) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(user_report_webhook) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(user_report_again) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(requests_per_minute) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(wrong_codes_per_hour) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT UPDATE(codes_per_day) ON TABLE public.verification_realm TO keyserver_pipeline;

GRANT SELECT,INSERT,DELETE ON TABLE public.verification_token TO keyserver_verification;
GRANT DELETE ON TABLE public.verification_token TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.verification_token TO keyserver_retention;

GRANT SELECT(expires_at) ON TABLE public.verification_token TO keyserver_auditor;
GRANT SELECT(expires_at) ON TABLE public.verification_token TO keyserver_retention;

GRANT UPDATE(used_at) ON TABLE public.verification_token TO keyserver_verification;

GRANT SELECT,INSERT,DELETE ON TABLE public.verification_user_report TO keyserver_verification;
GRANT DELETE ON TABLE public.verification_user_report TO keyserver_retention;

GRANT SELECT(ctid) ON TABLE public.verification_user_report TO keyserver_retention;

GRANT UPDATE(until) ON TABLE public.verification_user_report TO keyserver_verification;
GRANT SELECT(until) ON TABLE public.verification_user_report TO keyserver_auditor;
GRANT SELECT(until) ON TABLE public.verification_user_report TO keyserver_retention;
