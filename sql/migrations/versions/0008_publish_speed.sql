-- An upload in one call (W2, W4, P1), and less of what PostgreSQL did again for each of its keys.

-- W2: all keys of an upload, whatever their number, and its counters (P1), as rows of one transaction. Keys come in
-- order, so that uploads meet rows in one order. Gives how many were inserted and revised.
--
-- With `p_held_from`, the earliest window that may be written to, the caller holds that window's lock and has read what
-- is stored. Without it, this takes the lock of the window of now, and writes nothing if that window is closed or any of
-- the keys is stored: 0 keys then tell the caller to look first. Each statement in here has a snapshot of its own,
-- younger than the lock that was taken before it.
--
-- A key that another upload stores meanwhile ends in a unique violation. No `p_publish`: not counted; no
-- `p_profile_keys`: not profiled.
CREATE FUNCTION publish_keys(
    p_held_from timestamptz, p_embargo interval,
    p_report_type report_type, p_traveler boolean, p_regions text[], p_app_name text, p_health_authority_id bigint,
    p_exposure_keys bytea[], p_interval_numbers integer[], p_interval_counts smallint[],
    p_transmission_risks smallint[], p_days_since_onset smallint[],
    p_revised_keys bytea[], p_revised_transmission_risks smallint[], p_revised_days_since_onset smallint[],
    p_shard smallint, p_publish bigint[], p_teks bigint, p_revisions bigint, p_oldest_tek_days bigint[],
    p_onset_age_days bigint[], p_missing_onset bigint,
    p_platform integer, p_oldest_bucket integer, p_onset_bucket integer,
    p_profile_keys smallint, p_profile_oldest_days smallint,
    p_marginal_whats text[], p_marginal_values smallint[], p_marginal_counts bigint[],
    OUT inserted integer, OUT revised integer
) LANGUAGE plpgsql AS $$
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
REVOKE EXECUTE ON FUNCTION publish_keys FROM PUBLIC;
GRANT EXECUTE ON FUNCTION publish_keys TO keyserver_api;

-- W4, as before: whoever stores many rows is asked once.
CREATE OR REPLACE FUNCTION refuse_closed_window() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- An authority is never deleted: nobody may. What it vouches for is counted in upload_stats, which refers to it once an
-- hour and shard; for each key the same look would be taken again.
ALTER TABLE exposure
    DROP CONSTRAINT exposure_health_authority_id_fkey,
    DROP CONSTRAINT exposure_revised_authority_id_fkey;
