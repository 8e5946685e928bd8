-- What is stored now of all that audit events speak of, for whoever compares the two.

-- name: clock()^
SELECT keyserver_now(), closed_through, period, deleted_through
  FROM release_clock, retention;

-- name: windows(first)
SELECT starts_at, ends_at, keys, synthetic_keys, revisions
  FROM closed_window
 WHERE starts_at >= :first
 ORDER BY starts_at;

-- name: batches(first)
SELECT batch.id, feed.name, starts_at, ends_at, cutoff, revisions_to, status, replaces, with_keys, reason, approved, counts,
       code_version, carriers, withdrawn_carriers
  FROM batch
  JOIN feed ON feed.id = feed_id
 WHERE batch.id >= :first
 ORDER BY batch.id;

-- name: files(first)
SELECT batch_id, number, name, status, keys, revised_keys, export_sha256, zip_sha256, zip_bytes, release_no
  FROM file
 WHERE batch_id >= :first
 ORDER BY batch_id, number;

-- name: feeds()
SELECT id, name, root, index_sha256, last_release_no
  FROM feed
 ORDER BY id;

-- name: signing_keys()
SELECT name, key_id || '-' || key_version, purpose, public_key, revoked_at
  FROM signing_key
 ORDER BY id;

-- name: signatures()
SELECT export_sha256, key_id || '-' || key_version, signature
  FROM signature
  JOIN signing_key ON signing_key.id = signing_key_id
 ORDER BY export_sha256, signing_key_id;

-- name: log_signatures()
SELECT sha256, key_id || '-' || key_version, signature
  FROM transparency_signature
  JOIN signing_key ON signing_key.id = signing_key_id
 ORDER BY sha256, signing_key_id;

-- name: log_lines(feed_id)
SELECT line.number, kind, line.name, line.keys, line.zip_sha256, line.export_sha256,
       (line.starts_at, line.ends_at) IS NOT DISTINCT FROM (file.starts_at, file.ends_at)
  FROM transparency_line AS line
  LEFT JOIN file ON file.name = line.name
 WHERE line.feed_id = :feed_id
 ORDER BY line.number;

-- name: logged_at(name)$
SELECT max(at) FROM transparency_line WHERE name = :name;

-- name: log_days(feed_id)
SELECT day, head_seq, head_sha256, sha256
  FROM transparency_segment
 WHERE feed_id = :feed_id
 ORDER BY day;

-- name: deletions()
SELECT id, app_name, starts_at, ends_at, reason,
       (SELECT coalesce(sum(keys), 0) FROM deletion_window WHERE deletion_id = deletion.id),
       (SELECT coalesce(sum(revisions), 0) FROM deletion_window WHERE deletion_id = deletion.id)
  FROM deletion
 ORDER BY id;

-- name: index(feed_id)^
-- What a feed's index should be now, when that last changed, and what was written last.
SELECT ARRAY(SELECT name FROM file WHERE feed_id = feed.id AND status = 'released' ORDER BY release_no),
       (SELECT max(greatest(released_at, left_index_at)) FROM file WHERE feed_id = feed.id),
       index_sha256
  FROM feed
 WHERE id = :feed_id;

-- name: listed_files(feed_id, first)
-- Files that phones can download now.
SELECT batch_id, number, file.name, starts_at, ends_at, keys, revised_keys, export_sha256, zip_sha256,
       ARRAY(SELECT key_id || '-' || key_version
               FROM batch_signing_key
               JOIN signing_key ON signing_key.id = signing_key_id
              WHERE batch_signing_key.batch_id = file.batch_id
              ORDER BY position)
  FROM file
 WHERE feed_id = :feed_id AND status = 'released' AND batch_id >= :first
 ORDER BY release_no;

-- name: is_listed(name)$
SELECT EXISTS (SELECT FROM file WHERE name = :name AND status = 'released');

-- name: named_files(feed_id)
SELECT name, file.status, batch.status
  FROM file
  JOIN batch ON batch.id = batch_id
 WHERE file.feed_id = :feed_id AND name IS NOT NULL;

-- name: spans_of_built(first)
-- The batches whose counts must add up.
SELECT id, starts_at, ends_at, status, counts
  FROM batch
 WHERE id >= :first AND carriers IS NOT NULL
 ORDER BY id;

-- name: old_rows()
-- R1: rows that are older than they may be when whoever removes them comes once an hour: how many, and since when.
WITH clock AS MATERIALIZED (
    SELECT keyserver_now() - interval '1 hour' AS now, keyserver_now() - interval '1 hour' - period AS through,
           keyserver_now() - interval '1 hour' - interval '1 day' AS yesterday
      FROM retention)
SELECT what, count(*), min(at)
  FROM (SELECT 'keys', created_at FROM exposure, clock WHERE created_at <= through
        UNION ALL
        SELECT 'counters of uploads', hour FROM upload_stats, clock WHERE hour <= through
        UNION ALL
        SELECT 'profiles', day AT TIME ZONE 'UTC' FROM profile, clock WHERE day <= (through AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT 'profiles of a trait', day AT TIME ZONE 'UTC'
          FROM profile_marginal, clock
         WHERE day <= (through AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT 'quality results', at FROM quality_result, clock WHERE at <= through
        UNION ALL
        SELECT 'challenges', seen_at FROM attestation_seen, clock WHERE seen_at <= yesterday
        UNION ALL
        SELECT 'verification codes', long_expires_at FROM verification_code, clock WHERE long_expires_at <= through
        UNION ALL
        SELECT 'verification tokens', expires_at FROM verification_token, clock WHERE expires_at <= yesterday
        UNION ALL
        SELECT 'telephone numbers', until FROM verification_user_report, clock WHERE until <= now
        UNION ALL
        SELECT 'counters of requests', starts_at FROM verification_rate, clock WHERE starts_at <= through)
       AS old (what, at)
 GROUP BY what
 ORDER BY what;

-- name: old_lines()
-- R2: lines that should have left the index.
SELECT name, starts_at
  FROM (SELECT file.name, batch.starts_at
          FROM file
          JOIN batch ON batch.id = batch_id
         WHERE file.status = 'released') AS listed, retention
 WHERE starts_at <= keyserver_now() - interval '1 hour' - period
 ORDER BY starts_at, name;

-- name: past_files(grace)
-- R2: all that was ever staged or released of batches whose objects should be gone, in the store and in the staging area.
SELECT file.name, export_sha256, zip_sha256, batch.starts_at
  FROM file
  JOIN batch ON batch.id = batch_id
 CROSS JOIN retention
 WHERE batch.starts_at <= keyserver_now() - interval '2 hours' - period - :grace::interval;

-- name: first_window()$
SELECT min(starts_at) FROM closed_window;
