-- Keys: publishing (W2), padding (P2), rewriting (W5).

-- name: lock_open_window()^
-- Round trip 1: the clock, read once; the window that it falls into; that window's shared lock.
WITH clock AS MATERIALIZED (
    SELECT keyserver_now() AS now, width_minutes
      FROM release_clock),
window_of_now AS MATERIALIZED (
    SELECT now, width_minutes, window_start(now, width_minutes) AS starts_at
      FROM clock)
SELECT now, width_minutes, starts_at, pg_advisory_xact_lock_shared(1, window_lock(starts_at))
  FROM window_of_now;

-- name: lock_later_window(starts_at)!
SELECT pg_advisory_xact_lock_shared(1, window_lock(:starts_at::timestamptz));

-- name: closed_through()$
-- A statement of its own: its snapshot must be younger than the lock taken before it.
SELECT closed_through
  FROM release_clock;

-- name: existing(exposure_keys)
-- Read plainly: a row lock would tie the rows of one person together and lose revisions against W5.
SELECT exposure_key, interval_number, interval_count, report_type, created_at, revised_report_type, synthetic
  FROM exposure
 WHERE exposure_key = ANY(:exposure_keys::bytea[]);

-- name: write_published(report_type, traveler, regions, app_name, health_authority_id, exposure_keys, interval_numbers, interval_counts, transmission_risks, days_since_onset, created_at, revised_keys, revised_transmission_risks, revised_days_since_onset, base, counted, hour, shard, platform, publish, teks, revisions, oldest_bucket, oldest_tek_days, onset_bucket, onset_age_days, missing_onset, profiled, day, profile_keys, profile_oldest_days, marginal_whats, marginal_values, marginal_counts)^
-- Round trip 2: all keys of an upload, whatever their number, and its counters (P1). Gives how many keys were inserted
-- and revised: fewer than sent, and another upload was first. Counters are met in one order by all uploads.
WITH inserted AS (
    INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset,
                          report_type, traveler, regions, created_at, app_name, health_authority_id)
    SELECT exposure_key, interval_number, interval_count, transmission_risk, days_since_onset,
           :report_type::report_type, :traveler::boolean, :regions::text[], created_at, :app_name::text,
           :health_authority_id::bigint
      FROM unnest(:exposure_keys::bytea[], :interval_numbers::integer[], :interval_counts::smallint[],
                  :transmission_risks::smallint[], :days_since_onset::smallint[], :created_at::timestamptz[])
           AS sent (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, created_at)
     ORDER BY exposure_key
    ON CONFLICT DO NOTHING
    RETURNING exposure_key),
revised AS (
    UPDATE exposure
       SET revised_at = greatest(:base::timestamptz, exposure.created_at),
           revised_report_type = :report_type::report_type,
           revised_transmission_risk = sent.transmission_risk,
           revised_days_since_onset = sent.days_since_onset,
           revised_authority_id = :health_authority_id::bigint
      FROM unnest(:revised_keys::bytea[], :revised_transmission_risks::smallint[],
                  :revised_days_since_onset::smallint[])
           AS sent (exposure_key, transmission_risk, days_since_onset)
     WHERE exposure.exposure_key = sent.exposure_key AND exposure.revised_at IS NULL
    RETURNING exposure.exposure_key),
hour_counted AS (
    INSERT INTO upload_stats AS counter (health_authority_id, hour, shard, publish, teks, revisions, oldest_tek_days,
                                         onset_age_days, missing_onset)
    SELECT :health_authority_id::bigint, :hour::timestamptz, :shard::smallint, :publish::bigint[], :teks::bigint,
           :revisions::bigint, :oldest_tek_days::bigint[], :onset_age_days::bigint[], :missing_onset::bigint
     WHERE :counted::boolean
    ON CONFLICT (health_authority_id, hour, shard) DO UPDATE
       SET publish[:platform::integer] =
               counter.publish[:platform::integer] + excluded.publish[:platform::integer],
           teks = counter.teks + excluded.teks,
           revisions = counter.revisions + excluded.revisions,
           oldest_tek_days[:oldest_bucket::integer] =
               counter.oldest_tek_days[:oldest_bucket::integer] + excluded.oldest_tek_days[:oldest_bucket::integer],
           onset_age_days[:onset_bucket::integer] =
               counter.onset_age_days[:onset_bucket::integer] + excluded.onset_age_days[:onset_bucket::integer],
           missing_onset = counter.missing_onset + excluded.missing_onset),
day_profiled AS (
    INSERT INTO profile AS counter (day, report_type, keys, oldest_days, shard, uploads)
    SELECT :day::date, :report_type::report_type, :profile_keys::smallint, :profile_oldest_days::smallint,
           :shard::smallint, 1
     WHERE :profiled::boolean
    ON CONFLICT (day, report_type, keys, oldest_days, shard) DO UPDATE
       SET uploads = counter.uploads + excluded.uploads),
marginals_profiled AS (
    INSERT INTO profile_marginal AS counter (day, what, value, shard, count)
    SELECT :day::date, what, value, :shard::smallint, added
      FROM unnest(:marginal_whats::text[], :marginal_values::smallint[], :marginal_counts::bigint[])
           AS marginal (what, value, added)
     ORDER BY what, value
    ON CONFLICT (day, what, value, shard) DO UPDATE
       SET count = counter.count + excluded.count)
SELECT (SELECT count(*) FROM inserted), (SELECT count(*) FROM revised);

-- name: insert_synthetic(exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type, traveler, regions, created_at)!
-- P2: rows like any other, flagged; sent by executemany.
INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
                      traveler, regions, created_at, synthetic)
VALUES (:exposure_key, :interval_number, :interval_count, :transmission_risk, :days_since_onset,
        :report_type::report_type, :traveler, :regions, :created_at, true);

-- name: lock_rewriting()!
-- One rewriter at a time: a second one would find rows gone that the first is about to put back.
SELECT pg_advisory_xact_lock(3, 0);

-- name: rewrite_chunk(starts_at, after, most)^
-- W5: the next rows of the window in key order, taken out and put back in that order, by one new transaction.
-- Gives the last key of the chunk and the number of its rows, or nothing when the window is through.
WITH chunk AS MATERIALIZED (
    SELECT exposure_key
      FROM exposure
     WHERE (created_at = :starts_at OR revised_at = :starts_at) AND exposure_key > :after
     ORDER BY exposure_key
     LIMIT :most),
taken AS MATERIALIZED (
    DELETE FROM exposure
     USING chunk
     WHERE exposure.exposure_key = chunk.exposure_key
    RETURNING exposure.exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
              traveler, regions, created_at, synthetic, app_name, health_authority_id, revised_at, revised_report_type,
              revised_transmission_risk, revised_days_since_onset, revised_authority_id),
put_back AS (
    INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset,
                          report_type, traveler, regions, created_at, synthetic, app_name, health_authority_id,
                          revised_at, revised_report_type, revised_transmission_risk, revised_days_since_onset,
                          revised_authority_id)
    SELECT exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
           traveler, regions, created_at, synthetic, app_name, health_authority_id, revised_at, revised_report_type,
           revised_transmission_risk, revised_days_since_onset, revised_authority_id
      FROM taken
     ORDER BY exposure_key
    RETURNING exposure_key)
SELECT exposure_key, count(*) OVER ()
  FROM put_back
 ORDER BY exposure_key DESC
 LIMIT 1;
