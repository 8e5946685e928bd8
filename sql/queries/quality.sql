-- Results of quality checks, and what the gate asks of the database.

-- name: insert(suite, subject, batch_id, feed_id, run, expectations, severities, owners, reasons, met, expected, found, observed)!
-- One run of a suite on one subject; its results stand in the suite's order.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now)
INSERT INTO quality_result (at, suite, subject, batch_id, feed_id, run, expectation, severity, owner, reason, met,
                            expected, found, observed)
SELECT now, :suite, :subject, :batch_id::bigint, :feed_id::bigint, :run, expectation, severity, owner, reason, met,
       expected, found, observed
  FROM clock
 CROSS JOIN unnest(:expectations::text[], :severities::text[], :owners::text[], :reasons::text[], :met::boolean[],
                   :expected::text[], :found::text[], :observed::float8[])
       WITH ORDINALITY AS outcome (expectation, severity, owner, reason, met, expected, found, observed, place)
 ORDER BY place;

-- name: newest(within)
-- The last outcome of each expectation, for each feed that it was put for, of those not older than some time.
SELECT DISTINCT ON (suite, expectation, feed_id)
       suite, feed.name, batch_id, subject, at, run, expectation, severity, owner, reason, met, expected, found, observed
  FROM keyserver_now() AS now
  JOIN quality_result ON at > now - :within::interval
  LEFT JOIN feed ON feed.id = feed_id
 ORDER BY suite, expectation, feed_id, at DESC, quality_result.id DESC;

-- name: results_of_batch(batch_id)
-- The same of the last check of a batch, in the suite's order: its rows were inserted together.
SELECT suite, feed.name, batch_id, subject, at, run, expectation, severity, owner, reason, met, expected, found, observed
  FROM quality_result
  LEFT JOIN feed ON feed.id = feed_id
 WHERE batch_id = :batch_id AND at = (SELECT max(at) FROM quality_result WHERE batch_id = :batch_id)
 ORDER BY quality_result.id;

-- name: by_day(suite, expectation)
-- How often an expectation was met and missed on each day.
SELECT (at AT TIME ZONE 'UTC')::date AS day, count(*) FILTER (WHERE met), count(*) FILTER (WHERE NOT met)
  FROM quality_result
 WHERE suite = :suite AND expectation = :expectation
 GROUP BY day
 ORDER BY day;

-- name: last_of(suite, expectation, most)
-- The last outcomes of an expectation, those that were missed first.
SELECT suite, feed.name, batch_id, subject, at, run, expectation, severity, owner, reason, met, expected, found, observed
  FROM quality_result
  LEFT JOIN feed ON feed.id = feed_id
 WHERE suite = :suite AND expectation = :expectation
 ORDER BY met, at DESC, quality_result.id DESC
 LIMIT :most;

-- name: recorded(batch_id, longest_user)^
-- K1, A6, P2: what was written down before the batch was built. Padding adds whole users at the end of a window, for each
-- batch planned with it at most to its target.
SELECT closed_through,
       CASE WHEN batch.starts_at > keyserver_now() - period
            THEN (SELECT coalesce(sum(keys), 0)
                    FROM closed_window
                   WHERE starts_at >= batch.starts_at AND starts_at < batch.ends_at)
                 - (SELECT coalesce(sum(keys), 0)
                      FROM deletion_window
                     WHERE starts_at >= batch.starts_at AND starts_at < batch.ends_at) END,
       CASE WHEN input_regions <@ exclude_regions THEN 0 ELSE coalesce(padding_minimum, 0) END,
       (SELECT CASE WHEN count(*) = count(padding_minimum)
                    THEN coalesce(sum(padding_minimum + padding_spread + :longest_user - 1)
                                      FILTER (WHERE padding_minimum + padding_spread > 0), 0) END
          FROM batch AS padded
         WHERE padded.replaces IS NULL AND padded.ends_at > batch.starts_at AND padded.ends_at <= batch.ends_at)
  FROM batch, release_clock, retention
 WHERE batch.id = :batch_id;

-- name: listed(batch_id, keys, revised_keys)^
-- K1, K3: the keys of a batch's files, joined with the rows of its span and their fates. The other batches that have the
-- span are few, most often none, and are looked up once.
WITH wanted AS MATERIALIZED (
    SELECT substr(:keys::bytea, 16 * place + 1, 16) AS exposure_key
      FROM generate_series(0, length(:keys::bytea) / 16 - 1) AS place),
other AS MATERIALIZED (
    SELECT other AS batch, tstzrange(other.starts_at, other.ends_at) AS span
      FROM batch
      JOIN batch AS other ON other.feed_id = batch.feed_id AND other.id <> batch.id
       AND tstzrange(other.starts_at, other.ends_at) && tstzrange(batch.starts_at, batch.ends_at)
     WHERE batch.id = :batch_id
       AND other.status IN ('built', 'checked', 'signed', 'verified', 'released', 'held')),
own AS (
    SELECT exposure_key, key_fate(batch, exposure) AS fate, synthetic,
           EXISTS (SELECT FROM other WHERE span @> created_at AND key_fate(other.batch, exposure) = 'released') AS carried
      FROM batch
      JOIN exposure ON exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
     WHERE batch.id = :batch_id),
wanted_revised AS MATERIALIZED (
    SELECT substr(:revised_keys::bytea, 16 * place + 1, 16) AS exposure_key
      FROM generate_series(0, length(:revised_keys::bytea) / 16 - 1) AS place)
SELECT count(*) FILTER (WHERE fate IS DISTINCT FROM 'released'), count(*) FILTER (WHERE synthetic),
       count(*) FILTER (WHERE carried),
       (SELECT count(*)
          FROM wanted_revised
          LEFT JOIN exposure USING (exposure_key)
         WHERE NOT EXISTS (
                   SELECT
                     FROM batch
                     JOIN batch AS carrier ON carrier.id = ANY(batch.carriers || batch.withdrawn_carriers)
                      AND tstzrange(carrier.starts_at, carrier.ends_at) @> exposure.created_at
                      AND key_fate(carrier, exposure) = 'released'
                    WHERE batch.id = :batch_id))
  FROM wanted
  LEFT JOIN own USING (exposure_key);

-- name: carried(batch_id, keys)$
-- K1: the same of keys that are not all of the batch's span, wherever their rows are.
SELECT count(*)
  FROM generate_series(0, length(:keys::bytea) / 16 - 1) AS place
  JOIN exposure ON exposure_key = substr(:keys::bytea, 16 * place + 1, 16)
 WHERE EXISTS (
           SELECT
             FROM batch
             JOIN batch AS other ON other.feed_id = batch.feed_id AND other.id <> batch.id
              AND tstzrange(other.starts_at, other.ends_at) @> exposure.created_at
            WHERE batch.id = :batch_id
              AND other.status IN ('built', 'checked', 'signed', 'verified', 'released', 'held')
              AND key_fate(other, exposure) = 'released');

-- name: earlier_keys(batch_id, before)
-- Of the batches that phones have, or that had nothing for them: ordinary ones of the same length.
SELECT coalesce((earlier.counts ->> 'released')::integer, 0) - coalesce((earlier.counts ->> 'synthetic')::integer, 0)
  FROM batch
  JOIN batch AS earlier ON earlier.feed_id = batch.feed_id AND earlier.replaces IS NULL
   AND earlier.ends_at - earlier.starts_at = batch.ends_at - batch.starts_at
   AND earlier.ends_at <= batch.starts_at AND earlier.ends_at > batch.starts_at - :before::interval
 WHERE batch.id = :batch_id AND earlier.status IN ('empty', 'released', 'withdrawing', 'withdrawn')
 ORDER BY earlier.ends_at;

-- name: earlier_observed(batch_id, suite, expectations, before)
SELECT expectation, array_agg(observed ORDER BY earlier.ends_at)
  FROM batch
  JOIN quality_result ON quality_result.feed_id = batch.feed_id AND suite = :suite AND observed IS NOT NULL
   AND expectation = ANY(:expectations::text[])
  JOIN batch AS earlier ON earlier.id = quality_result.batch_id AND earlier.replaces IS NULL
   AND earlier.ends_at <= batch.starts_at AND earlier.ends_at > batch.starts_at - :before::interval
 WHERE batch.id = :batch_id AND earlier.status IN ('released', 'withdrawing', 'withdrawn')
 GROUP BY expectation;
