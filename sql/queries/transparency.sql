-- The public log of each feed (A3): its lines, the days that are over, and the signatures of its segments.

-- name: lock_feed(feed_id)$
-- Before the other statements: what they read is as the last writer of the feed's log left it.
SELECT root
  FROM feed
 WHERE id = :feed_id
   FOR UPDATE;

-- name: clock(feed_id)^
-- The database's clock, in a log that never goes back, and the head of the audit chain.
SELECT date_trunc('second', greatest(
           keyserver_now(),
           (SELECT max(closed_at) FROM transparency_segment WHERE feed_id = :feed_id),
           (SELECT at FROM transparency_line WHERE feed_id = :feed_id ORDER BY number DESC LIMIT 1))),
       coalesce(head.seq, 0),
       head.hash
  FROM (VALUES (true)) AS always
  LEFT JOIN (SELECT seq, hash FROM audit_event ORDER BY seq DESC LIMIT 1) AS head ON true;

-- name: root(feed_id)$
SELECT root
  FROM feed
 WHERE id = :feed_id;

-- name: newest_closed(feed_id)^
SELECT day, sha256
  FROM transparency_segment
 WHERE feed_id = :feed_id
 ORDER BY day DESC
 LIMIT 1;

-- name: closed(feed_id, day)^
SELECT closed_at, head_seq, head_sha256, sha256
  FROM transparency_segment
 WHERE feed_id = :feed_id AND day = :day;

-- name: close(feed_id, day, closed_at, head_seq, head_sha256, sha256)!
INSERT INTO transparency_segment (feed_id, day, closed_at, head_seq, head_sha256, sha256)
VALUES (:feed_id, :day, :closed_at, :head_seq, :head_sha256, :sha256);

-- name: append(feed_id, day, at, kind, batch_id)!
INSERT INTO transparency_line (feed_id, number, day, at, kind, name, starts_at, ends_at, keys, zip_sha256, export_sha256)
SELECT :feed_id,
       (SELECT coalesce(max(number), 0) FROM transparency_line WHERE feed_id = :feed_id)
           + row_number() OVER (ORDER BY file.number),
       :day, :at, :kind, name, starts_at, ends_at, keys + revised_keys, zip_sha256, export_sha256
  FROM file
 WHERE batch_id = :batch_id;

-- name: lines(feed_id, day)
SELECT kind, at, name, starts_at, ends_at, keys, zip_sha256, export_sha256
  FROM transparency_line
 WHERE feed_id = :feed_id AND day = :day
 ORDER BY number;

-- name: days(feed_id)
SELECT day
  FROM transparency_segment
 WHERE feed_id = :feed_id
 ORDER BY day;

-- name: signing_key()^
-- The newest that is active.
SELECT id, name, key_id, key_version, public_key
  FROM signing_key, (SELECT keyserver_now() AS now) AS clock
 WHERE purpose = 'transparency' AND revoked_at IS NULL
   AND active_from <= now AND (active_thru IS NULL OR active_thru > now)
 ORDER BY active_from DESC, id DESC
 LIMIT 1;

-- name: store_signature(sha256, signing_key_id, signature)$
INSERT INTO transparency_signature (sha256, signing_key_id, signature)
VALUES (:sha256, :signing_key_id, :signature)
ON CONFLICT DO NOTHING
RETURNING signing_key_id;

-- name: signature(sha256)^
-- The one that counts: by the oldest key that was not revoked, so that a later key changes nothing that was published.
SELECT key_id, key_version, signature
  FROM transparency_signature
  JOIN signing_key ON signing_key.id = signing_key_id
 WHERE sha256 = :sha256 AND revoked_at IS NULL
 ORDER BY signing_key_id
 LIMIT 1;
