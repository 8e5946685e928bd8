-- What is there that should be gone (R3): asked anew, and written apart from what deletes.

-- name: clock()^
SELECT keyserver_now(), period FROM retention;

-- name: rows(cadence)
-- Of each table: how many rows are older than their limit and a run's distance, and the age of the oldest, in seconds.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now, period, :cadence::interval AS cadence FROM retention),
found (kind, remaining, oldest) AS (
    SELECT 'exposure',
           (SELECT count(*) FROM exposure WHERE created_at <= (SELECT now - (period + cadence) FROM clock)),
           (SELECT min(created_at) FROM exposure)
     UNION ALL
    SELECT 'upload_stats', count(*) FILTER (WHERE now - hour >= period + cadence), min(hour) FROM upload_stats, clock
     UNION ALL
    SELECT 'profile', count(*) FILTER (WHERE now - (day::timestamp AT TIME ZONE 'UTC') >= period + cadence),
           min(day)::timestamp AT TIME ZONE 'UTC'
      FROM profile, clock
     UNION ALL
    SELECT 'profile_marginal', count(*) FILTER (WHERE now - (day::timestamp AT TIME ZONE 'UTC') >= period + cadence),
           min(day)::timestamp AT TIME ZONE 'UTC'
      FROM profile_marginal, clock
     UNION ALL
    SELECT 'attestation_seen', count(*) FILTER (WHERE now - seen_at >= interval '24 hours' + cadence), min(seen_at)
      FROM attestation_seen, clock
     UNION ALL
    SELECT 'verification_code', count(*) FILTER (WHERE now - long_expires_at >= period + cadence), min(long_expires_at)
      FROM verification_code, clock
     UNION ALL
    SELECT 'verification_token', count(*) FILTER (WHERE now - expires_at >= interval '24 hours' + cadence),
           min(expires_at)
      FROM verification_token, clock
     UNION ALL
    SELECT 'verification_user_report', count(*) FILTER (WHERE now - until >= cadence), min(until)
      FROM verification_user_report, clock
     UNION ALL
    SELECT 'verification_rate', count(*) FILTER (WHERE now - starts_at >= period + cadence), min(starts_at)
      FROM verification_rate, clock
     UNION ALL
    SELECT 'quality_result', count(*) FILTER (WHERE now - at >= period + cadence), min(at) FROM quality_result, clock
     UNION ALL
    SELECT 'index_line',
           count(*) FILTER (WHERE now - greatest(batch.starts_at + period, file.released_at) >= cadence),
           min(batch.starts_at)
      FROM file
      JOIN batch ON batch.id = batch_id
     CROSS JOIN clock
     WHERE file.status = 'released')
SELECT kind, remaining, greatest(0, floor(extract(epoch FROM now - oldest)))::bigint
  FROM found, clock
 WHERE oldest IS NOT NULL
 ORDER BY kind;

-- name: listed(names, cadence)
-- Of the names that an index in the store lists those whose time there is over.
SELECT file.name, floor(extract(epoch FROM now - batch.starts_at))::bigint
  FROM (SELECT keyserver_now() AS now, period FROM retention) AS clock
 CROSS JOIN file
  JOIN batch ON batch.id = batch_id
 WHERE file.name = ANY(:names::text[])
   AND now - greatest(batch.starts_at + period, file.released_at) >= :cadence::interval;

-- name: objects(names, grace, cadence)
-- What the database knows of objects: when each must be gone at the latest, nothing while its line stands; and its span's
-- start.
SELECT file.name,
       CASE file.status
            WHEN 'released' THEN NULL
            WHEN 'expired' THEN left_index_at + :grace::interval + :cadence::interval
            WHEN 'withdrawing' THEN greatest(left_index_at, batch.starts_at + period) + :grace::interval
                                    + :cadence::interval
            ELSE batch.starts_at + period + :grace::interval + :cadence::interval END,
       batch.starts_at
  FROM file
  JOIN batch ON batch.id = batch_id
 CROSS JOIN retention
 WHERE file.name = ANY(:names::text[]);

-- name: staged(hashes, cadence)
-- What the database knows of staged files: whether one is still there that should not be, and its span's start. It should
-- not once its keys are too old, but for a batch that a run works on; nor once its release was confirmed, unless a batch of
-- the same span may need the same bytes.
SELECT of_file.sha256,
       now - batch.starts_at >= period + :cadence::interval
         AND NOT coalesce(claim_renewed_at > now - interval '45 seconds', false)
       OR batch.status = 'released' AND now - file.confirmed_at >= :cadence::interval
         AND NOT EXISTS (SELECT FROM batch AS other
                          WHERE (other.starts_at, other.ends_at) = (batch.starts_at, batch.ends_at)
                            AND other.status IN ('planned', 'built', 'checked', 'signed', 'verified', 'held')),
       batch.starts_at
  FROM (SELECT keyserver_now() AS now, period FROM retention) AS clock
 CROSS JOIN file
  JOIN batch ON batch.id = batch_id
 CROSS JOIN LATERAL (VALUES (file.export_sha256), (file.zip_sha256)) AS of_file (sha256)
 WHERE of_file.sha256 = ANY(:hashes::bytea[]);

-- name: oldest_maker()$
-- The end of the oldest batch that may still name a staged file which no batch names yet.
SELECT min(ends_at)
  FROM batch
 WHERE starts_at > (SELECT keyserver_now() - period FROM retention)
   AND status IN ('planned', 'built', 'checked', 'held', 'rejected');
