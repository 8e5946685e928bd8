-- What is deleted when it is old (R1, R2). Every statement reads the clock and the period once, and takes a bounded number
-- of rows; it can be cut off, run again, and run beside itself.

-- name: period()$
SELECT period FROM retention;

-- name: delete_exposures(first, most)
-- R1: the oldest rows from a window on, at most :most, told by window, by what is synthetic, and by what became of them.
-- What was released in a feed counts as that, also if it was withdrawn later; of the other ways the first that fits.
-- Rows are found by their place: one that moves meanwhile, being revised or rewritten, is left for the next call.
WITH clock AS MATERIALIZED (SELECT keyserver_now() - period AS through FROM retention),
old AS MATERIALIZED (
    SELECT ctid AS place
      FROM exposure
     WHERE created_at >= :first::timestamptz AND created_at <= (SELECT through FROM clock)
     ORDER BY created_at
     LIMIT :most),
gone AS (
    DELETE FROM exposure
     WHERE ctid = ANY(ARRAY(SELECT place FROM old))
    RETURNING created_at, synthetic, revised_at IS NOT NULL AS revised, exposure AS row),
released_in AS MATERIALIZED (
    SELECT created_at, array_agg(batch) AS batches, array_agg(feed.paused) AS paused
      FROM (SELECT DISTINCT created_at FROM gone) AS of_window
      JOIN batch ON tstzrange(batch.starts_at, batch.ends_at) @> created_at
      JOIN feed ON feed.id = feed_id
     GROUP BY created_at),
told AS (
    SELECT gone.created_at, gone.synthetic, gone.revised, coalesce(way.way, 'j no_feed') AS way
      FROM gone
      LEFT JOIN released_in USING (created_at)
      LEFT JOIN LATERAL (
           SELECT min(CASE key_fate(batches[one.place], gone.row)
                      WHEN 'released' THEN CASE
                           WHEN (batches[one.place]).status IN ('released', 'withdrawing', 'withdrawn') THEN 'a released'
                           WHEN (batches[one.place]).status = 'held' THEN 'd held'
                           WHEN (batches[one.place]).status = 'rejected' THEN 'e rejected'
                           WHEN (batches[one.place]).status = 'replaced' THEN NULL
                           WHEN paused[one.place] THEN 'c paused'
                           ELSE 'b waiting' END
                      WHEN 'revoked' THEN 'f revoked'
                      WHEN 'left_out' THEN 'g left_out'
                      WHEN 'expired' THEN 'h expired'
                      WHEN 'excluded_region' THEN 'i excluded'
                      WHEN 'traveler' THEN 'i excluded' END) AS way
             FROM generate_subscripts(batches, 1) AS one (place)) AS way ON true)
SELECT created_at, synthetic, substr(way, 3), count(*), count(*) FILTER (WHERE revised)
  FROM told
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3;

-- name: more_exposures(first)$
-- Whether there are rows to delete from a window on.
SELECT EXISTS (
    SELECT FROM exposure
     WHERE created_at >= :first::timestamptz
       AND created_at <= (SELECT keyserver_now() - period FROM retention));

-- name: set_deleted_through(window_start)!
UPDATE retention
   SET deleted_through = greatest(deleted_through, :window_start);

-- name: delete_upload_stats(most)!
DELETE FROM upload_stats
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM upload_stats
                         WHERE hour <= (SELECT keyserver_now() - period FROM retention)
                         LIMIT :most));

-- name: delete_profile(most)!
-- A day in UTC goes as its first moment does.
DELETE FROM profile
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM profile
                         WHERE day <= (SELECT ((keyserver_now() - period) AT TIME ZONE 'UTC')::date FROM retention)
                         LIMIT :most));

-- name: delete_profile_marginal(most)!
DELETE FROM profile_marginal
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM profile_marginal
                         WHERE day <= (SELECT ((keyserver_now() - period) AT TIME ZONE 'UTC')::date FROM retention)
                         LIMIT :most));

-- name: delete_attestation_seen(most)!
-- E3: a challenge lives for minutes; a day later nobody can use it again.
DELETE FROM attestation_seen
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM attestation_seen
                         WHERE seen_at <= (SELECT keyserver_now() - interval '1 day')
                         LIMIT :most));

-- name: delete_verification_code(most)!
-- The verification service forgets what nobody can ask for any more when it issues a code; where none is issued, this does.
DELETE FROM verification_code
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM verification_code
                         WHERE long_expires_at <= (SELECT keyserver_now() - period FROM retention)
                         LIMIT :most));

-- name: delete_verification_token(most)!
DELETE FROM verification_token
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM verification_token
                         WHERE expires_at <= (SELECT keyserver_now() - interval '1 day')
                         LIMIT :most));

-- name: delete_verification_user_report(most)!
-- A telephone number that may report again.
DELETE FROM verification_user_report
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM verification_user_report
                         WHERE until <= (SELECT keyserver_now())
                         LIMIT :most));

-- name: delete_verification_rate(most)!
DELETE FROM verification_rate
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM verification_rate
                         WHERE starts_at <= (SELECT keyserver_now() - period FROM retention)
                         LIMIT :most));

-- name: delete_quality_result(most)!
DELETE FROM quality_result
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM quality_result
                         WHERE at <= (SELECT keyserver_now() - period FROM retention)
                         LIMIT :most));

-- name: expire_lines(most)
-- R2: the lines of files leave the index that the database gives, in the order of their batches.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now, keyserver_now() - period AS through FROM retention),
old AS MATERIALIZED (
    SELECT file.batch_id, file.number
      FROM file
      JOIN batch ON batch.id = file.batch_id
     WHERE file.status = 'released' AND batch.starts_at <= (SELECT through FROM clock)
     ORDER BY file.batch_id, file.number
     LIMIT :most
       FOR UPDATE OF file)
UPDATE file
   SET status = 'expired', left_index_at = clock.now
  FROM old, clock, feed
 WHERE file.batch_id = old.batch_id AND file.number = old.number AND file.status = 'released' AND feed.id = file.feed_id
RETURNING file.batch_id, feed.name, file.number, file.name;

-- name: hold_outlived(problem)
-- What was built and not released before its own line would have left the index: a feed was paused for that long. Its
-- files hold keys that are deleted. What a run works on is left to it.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now, keyserver_now() - period AS through FROM retention),
old AS MATERIALIZED (
    SELECT batch.id
      FROM batch
     WHERE status IN ('built', 'checked', 'signed', 'verified') AND starts_at <= (SELECT through FROM clock)
       AND (claimed_by IS NULL OR claim_renewed_at < (SELECT now FROM clock) - interval '45 seconds')
     ORDER BY batch.id
       FOR UPDATE SKIP LOCKED)
UPDATE batch
   SET status = 'held', held_at = clock.now, problem = :problem, claimed_by = NULL, claim_renewed_at = NULL
  FROM old, clock, feed
 WHERE batch.id = old.id AND feed.id = batch.feed_id
RETURNING batch.id, feed.name;

-- name: objects_due(grace)
-- R2: files whose lines have been out of the index for long enough; those of a withdrawal that hangs among them.
SELECT file.batch_id, feed.name, feed.root, file.number, file.name, file.zip_sha256
  FROM file
  JOIN feed ON feed.id = file.feed_id
 WHERE file.status IN ('expired', 'withdrawing') AND file.left_index_at <= (SELECT keyserver_now() - :grace::interval)
 ORDER BY file.batch_id, file.number;

-- name: set_deleted(batch_id, number)$
UPDATE file
   SET status = 'deleted'
 WHERE batch_id = :batch_id AND number = :number AND status = 'expired'
RETURNING number;

-- name: strays(names)
-- Of these names those that no index lists or ever will, and whose objects have no time left either.
SELECT file.name
  FROM file
  JOIN batch ON batch.id = file.batch_id
 WHERE file.name = ANY(:names::text[]) AND file.status IN ('staged', 'withdrawn', 'deleted')
   AND batch.status IN ('released', 'held', 'rejected', 'replaced', 'withdrawn')
 ORDER BY file.name;

-- name: staged(hashes, wait)
-- Whose staged files these are, and whether its batch still wants them: while it is on its way, may be decided on, or was
-- released just now and nobody has looked at it. A held batch has no claim on keys that are deleted.
SELECT of_file.sha256, batch.starts_at, batch.ends_at,
       CASE batch.status
            WHEN 'held' THEN batch.starts_at > clock.through
            WHEN 'released' THEN file.status = 'released' AND file.confirmed_at IS NULL
                                 AND file.released_at > clock.now - :wait::interval
            ELSE batch.status IN ('built', 'checked', 'signed', 'verified') END
  FROM (SELECT keyserver_now() AS now, period FROM retention) AS read
 CROSS JOIN LATERAL (SELECT read.now, read.now - read.period AS through) AS clock
 CROSS JOIN file
  JOIN batch ON batch.id = file.batch_id
 CROSS JOIN LATERAL (VALUES (file.export_sha256), (file.zip_sha256)) AS of_file (sha256)
 WHERE of_file.sha256 = ANY(:hashes::bytea[]);

-- name: lock_span(starts_at, ends_at)
-- All batches of one span, of any feed: they may share bytes. While they are locked none is planned in place of one. Tells
-- of each whether it may want, or make again, what is staged.
SELECT status IN ('built', 'checked', 'signed', 'verified')
       OR status IN ('planned', 'held') AND starts_at > (SELECT keyserver_now() - period FROM retention)
  FROM batch
 WHERE starts_at = :starts_at AND ends_at = :ends_at
 ORDER BY id
   FOR UPDATE;

-- name: lock_makers(staged_at)
-- The batches that may have made, or may yet make again, the bytes of a staged file that no batch names: they ended before
-- it was staged. Tells of each whether it is on its way; the others are only locked, so that none is planned in its place.
-- What is older than the period does not come out again: its keys are deleted.
SELECT status NOT IN ('held', 'rejected')
  FROM batch
 WHERE ends_at <= :staged_at AND starts_at > (SELECT keyserver_now() - period FROM retention)
   AND (status IN ('planned', 'built', 'checked', 'held')
        OR status = 'rejected' AND NOT EXISTS (SELECT FROM batch AS later WHERE later.replaces = batch.id))
 ORDER BY id
   FOR UPDATE;
