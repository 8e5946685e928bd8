-- Keys: publishing (W2), padding (P2), rewriting (W5).

-- name: lock_open_window()^
-- Round trip 1: the clock, read once; the window that it falls into; that window's shared lock.
WITH clock AS MATERIALIZED (
    SELECT keyserver_now() AS now, width_minutes
      FROM release_clock),
window_of_now AS MATERIALIZED (
    SELECT now, window_start(now, width_minutes) AS starts_at
      FROM clock)
SELECT now, starts_at, pg_advisory_xact_lock_shared(1, window_lock(starts_at))
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

-- name: publish_keys(held_from, embargo, report_type, traveler, regions, app_name, health_authority_id, exposure_keys, interval_numbers, interval_counts, transmission_risks, days_since_onset, revised_keys, revised_transmission_risks, revised_days_since_onset, shard, publish, teks, revisions, oldest_tek_days, onset_age_days, missing_onset, platform, oldest_bucket, onset_bucket, profile_keys, profile_oldest_days, marginal_whats, marginal_values, marginal_counts)^
-- Round trip 2, and the only one of an upload whose keys are all new: all its keys and its counters, by one function.
SELECT inserted, revised
  FROM publish_keys(:held_from, :embargo, :report_type, :traveler, :regions, :app_name, :health_authority_id,
                    :exposure_keys, :interval_numbers, :interval_counts, :transmission_risks, :days_since_onset,
                    :revised_keys, :revised_transmission_risks, :revised_days_since_onset,
                    :shard, :publish, :teks, :revisions, :oldest_tek_days, :onset_age_days, :missing_onset,
                    :platform, :oldest_bucket, :onset_bucket,
                    :profile_keys, :profile_oldest_days, :marginal_whats, :marginal_values, :marginal_counts);

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
