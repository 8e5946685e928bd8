-- What the monitors look at: how fresh it is, what is in public, and what was stored since they last looked.

-- name: clock()^
SELECT now, make_interval(mins => width_minutes), closed_through, period
  FROM keyserver_now() AS now, release_clock, retention;

-- name: feeds()
-- Each feed that is to be fresh: neither paused nor ended, with a batch; and the end of the newest one that is out, or had
-- nothing to put out. Before the first there is one, as if one had been out before it.
SELECT feed.name, make_interval(mins => period_minutes), fresh_through
  FROM keyserver_now() AS now
  JOIN feed ON NOT paused AND (active_thru IS NULL OR active_thru > now)
 CROSS JOIN LATERAL (
       SELECT coalesce(max(ends_at) FILTER (WHERE status IN ('released', 'empty')),
                       min(ends_at) - make_interval(mins => period_minutes)) AS fresh_through
         FROM batch
        WHERE feed_id = feed.id) AS newest
 WHERE fresh_through IS NOT NULL
 ORDER BY feed.name;

-- name: waiting()
-- The batches that wait for somebody: to be taken off the CDN, or decided about; and since when.
SELECT batch.id, feed.name, batch.status,
       CASE batch.status WHEN 'held' THEN held_at
                         ELSE (SELECT min(left_index_at) FROM file WHERE batch_id = batch.id) END
  FROM batch
  JOIN feed ON feed.id = feed_id
 WHERE batch.status IN ('withdrawing', 'held')
 ORDER BY batch.id;

-- name: newest_event(kind, within)$
-- Through the index on times, so no further back than asked.
SELECT at
  FROM audit_event
 WHERE kind = :kind AND at > (SELECT now - :within::interval FROM keyserver_now() AS now)
 ORDER BY at DESC
 LIMIT 1;

-- name: public_files()
-- Every file that may lie where phones download it: listed, leaving, or on its way there; in the order of the indexes.
SELECT file.feed_id, file.batch_id, file.name, file.status, released_at, left_index_at, batch.starts_at, zip_sha256, zip_bytes
  FROM file
  JOIN batch ON batch.id = batch_id
 WHERE file.name IS NOT NULL
   AND (file.status IN ('released', 'withdrawing', 'expired') OR file.status = 'staged' AND batch.status = 'verified')
 ORDER BY file.feed_id, release_no;

-- name: looked_at(suite)^
-- Which exposures to look at: those of the windows that closed since the last look (of at most six hours), with a quarter
-- of an hour to spare for one that closed while it was under way; and those of one hour of the past 14 days, another one
-- each quarter of an hour, so that each hour has its turn three times while its rows live. And the last whole day.
SELECT (SELECT min(starts_at)
          FROM closed_window
         WHERE starts_at >= closed_through - interval '6 hours'
           AND closed_at > coalesce((SELECT at FROM quality_result WHERE suite = :suite ORDER BY at DESC LIMIT 1),
                                    '-infinity') - interval '15 minutes'),
       closed_through,
       date_trunc('hour', now, 'UTC')
           - make_interval(hours => 1 + mod(floor(extract(epoch FROM now) / 900)::integer, 336)),
       date_trunc('day', closed_through, 'UTC') - interval '1 day'
  FROM release_clock, keyserver_now() AS now;

-- name: exposures(new_from, new_to, sampled_from, sampled_to)
-- How many of these rows, and of those that were revised in the new windows, are otherwise than they must be: in one pass,
-- by an index. What was declared may have changed since, so only new rows are compared with it.
SELECT count(*) FILTER (WHERE octet_length(exposure_key) <> 16) AS other_lengths,
       count(*) FILTER (WHERE interval_number NOT BETWEEN 0 AND 2147483647 - 144) AS other_intervals,
       count(*) FILTER (WHERE interval_count NOT BETWEEN 1 AND 144) AS other_interval_counts,
       count(*) FILTER (WHERE transmission_risk NOT BETWEEN 0 AND 8) AS other_risks,
       count(*) FILTER (WHERE days_since_onset NOT BETWEEN -14 AND 14) AS other_onsets,
       count(*) FILTER (WHERE report_type NOT IN ('confirmed', 'likely', 'user-report')) AS other_types,
       count(*) FILTER (WHERE cardinality(regions) = 0) AS without_region,
       count(*) FILTER (WHERE created_at <> window_start(created_at, (SELECT width_minutes FROM release_clock)))
           AS off_a_window,
       count(*) FILTER (WHERE created_at < window_start(
               to_timestamp((interval_number::bigint + interval_count) * 600) + interval '2 hours',
               (SELECT width_minutes FROM release_clock))) AS too_early,
       count(*) FILTER (WHERE num_nulls(revised_report_type, revised_transmission_risk)
                              <> CASE WHEN revised_at IS NULL THEN 2 ELSE 0 END
                           OR revised_at IS NULL AND num_nulls(revised_days_since_onset, revised_authority_id) <> 2)
           AS partly_revised,
       count(*) FILTER (WHERE revised_at < created_at
                           OR revised_at <> window_start(revised_at, (SELECT width_minutes FROM release_clock)))
           AS revised_off_a_window,
       count(*) FILTER (WHERE revised_report_type NOT IN ('confirmed', 'likely', 'negative')) AS other_revised_types,
       count(*) FILTER (WHERE revised_transmission_risk NOT BETWEEN 0 AND 8) AS other_revised_risks,
       count(*) FILTER (WHERE revised_days_since_onset NOT BETWEEN -14 AND 14) AS other_revised_onsets,
       count(*) FILTER (WHERE synthetic AND num_nulls(app_name, health_authority_id, revised_at) <> 3)
           AS synthetic_with_origin,
       count(*) FILTER (WHERE health_authority_id IS NOT NULL
                              AND health_authority_id NOT IN (SELECT id FROM health_authority)
                           OR revised_authority_id IS NOT NULL
                              AND revised_authority_id NOT IN (SELECT id FROM health_authority)) AS unknown_authorities,
       count(*) FILTER (WHERE created_at >= :new_from AND NOT regions <@ (
               SELECT array_agg(region) FROM authorised_app, unnest(authorised_app.regions) AS region))
           AS unknown_regions
  FROM exposure
 WHERE created_at >= :new_from AND created_at < :new_to
    OR revised_at >= :new_from AND revised_at < :new_to
    OR created_at >= :sampled_from AND created_at < :sampled_to;

-- name: windows(new_from, new_to, sampled_from, sampled_to)
-- A6: how many rows the closed windows among these lack that were counted when they closed and not deleted on demand.
SELECT closed_window.keys - coalesce(deleted.keys, 0)
           - (SELECT count(*) FROM exposure WHERE created_at = closed_window.starts_at) AS missing
  FROM closed_window
  LEFT JOIN (SELECT starts_at, sum(keys) AS keys FROM deletion_window GROUP BY starts_at) AS deleted USING (starts_at)
 WHERE (starts_at >= :new_from AND starts_at < :new_to OR starts_at >= :sampled_from AND starts_at < :sampled_to)
   AND starts_at > (SELECT now - period FROM retention, keyserver_now() AS now);

-- name: overdue_exposures()
-- R1: what enforce_retention should have removed: a cadence of it, and a quarter of an hour for its run. A few will do.
SELECT created_at
  FROM exposure
 WHERE created_at < (SELECT now - period - interval '75 minutes' FROM retention, keyserver_now() AS now)
 LIMIT 1000;

-- name: report_types(day)
-- The share of each report type in a day's real keys.
SELECT (count(*) FILTER (WHERE report_type = 'confirmed'))::double precision / count(*) AS confirmed,
       (count(*) FILTER (WHERE report_type = 'likely'))::double precision / count(*) AS likely,
       (count(*) FILTER (WHERE report_type = 'user-report'))::double precision / count(*) AS user_report
  FROM exposure
 WHERE created_at >= :day AND created_at < :day::timestamptz + interval '1 day'
   AND NOT synthetic AND report_type IS NOT NULL
HAVING count(*) > 0;

-- name: report_types_before(day)
-- The same of each of the 14 days before, as uploads were counted (P1).
SELECT sum(keys * uploads) FILTER (WHERE report_type = 'confirmed'),
       sum(keys * uploads) FILTER (WHERE report_type = 'likely'),
       sum(keys * uploads) FILTER (WHERE report_type = 'user-report'),
       sum(keys * uploads)
  FROM profile
 WHERE day >= (:day::timestamptz AT TIME ZONE 'UTC')::date - 14 AND day < (:day::timestamptz AT TIME ZONE 'UTC')::date
 GROUP BY day;

-- name: volume(day)$
-- The number of a day's real keys, as its windows were counted when they closed; nothing if not all of them did.
SELECT sum(keys - synthetic_keys)::double precision AS keys
  FROM closed_window
 WHERE starts_at >= :day AND starts_at < :day::timestamptz + interval '1 day'
HAVING sum(ends_at - starts_at) = interval '1 day';

-- name: volumes_before(day)
-- The same of each of the 14 days before.
SELECT sum(keys - synthetic_keys)
  FROM closed_window
 WHERE starts_at >= :day::timestamptz - interval '14 days' AND starts_at < :day
 GROUP BY date_bin('1 day', starts_at, :day)
HAVING sum(ends_at - starts_at) = interval '1 day';
