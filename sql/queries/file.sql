-- Files of batches, their signatures, and the index of a feed.

-- name: insert(batch_id, number, feed_id, starts_at, ends_at, keys, revised_keys, export_sha256)!
INSERT INTO file (batch_id, number, feed_id, starts_at, ends_at, keys, revised_keys, export_sha256)
VALUES (:batch_id, :number, :feed_id, :starts_at, :ends_at, :keys, :revised_keys, :export_sha256);

-- name: of_batch(batch_id)
SELECT number, starts_at, ends_at, keys, revised_keys, export_sha256, name, zip_sha256, zip_bytes, status, confirmed_at
  FROM file
 WHERE batch_id = :batch_id
 ORDER BY number;

-- name: set_packed(name, zip_sha256, zip_bytes, compressor, batch_id, number)!
UPDATE file
   SET name = :name, zip_sha256 = :zip_sha256, zip_bytes = :zip_bytes, compressor = :compressor
 WHERE batch_id = :batch_id AND number = :number;

-- name: store_signature(export_sha256, signing_key_id, signature)$
INSERT INTO signature (export_sha256, signing_key_id, signature)
VALUES (:export_sha256, :signing_key_id, :signature)
ON CONFLICT DO NOTHING
RETURNING signing_key_id;

-- name: signature(export_sha256, signing_key_id)$
SELECT signature
  FROM signature
 WHERE export_sha256 = :export_sha256 AND signing_key_id = :signing_key_id;

-- name: release(batch_id, feed_id)
-- B7: the places in the index come from the feed's row, under its lock: whoever commits later stands below.
WITH counter AS (
    UPDATE feed
       SET last_release_no = last_release_no + (SELECT count(*) FROM file WHERE batch_id = :batch_id)
     WHERE id = :feed_id
    RETURNING last_release_no),
clock AS MATERIALIZED (SELECT keyserver_now() AS now),
numbered AS (
    SELECT number, row_number() OVER (ORDER BY number DESC) - 1 AS from_last
      FROM file
     WHERE batch_id = :batch_id)
UPDATE file
   SET status = 'released', released_at = clock.now, release_no = counter.last_release_no - numbered.from_last
  FROM counter, clock, numbered
 WHERE batch_id = :batch_id AND file.number = numbered.number AND file.status = 'staged'
RETURNING file.number, file.release_no;

-- name: feeds()
SELECT id, name, root
  FROM feed
 ORDER BY id;

-- name: feed(feed_id)^
SELECT id, name, root
  FROM feed
 WHERE id = :feed_id;

-- name: lock_feed(feed_id)$
SELECT paused
  FROM feed
 WHERE id = :feed_id
   FOR UPDATE;

-- name: index_lines(feed_id)
-- B6: the index is this, and nothing else.
SELECT name
  FROM file
 WHERE feed_id = :feed_id AND status = 'released'
 ORDER BY release_no;

-- name: set_index(sha256, feed_id)$
-- Remembers the index that was written last; gives nothing when it was this one already.
UPDATE feed
   SET index_sha256 = :sha256
 WHERE id = :feed_id AND index_sha256 IS DISTINCT FROM :sha256
RETURNING id;

-- name: begin_withdrawal(batch_id)!
-- B5: the lines leave the index.
UPDATE file
   SET status = 'withdrawing', left_index_at = keyserver_now()
 WHERE batch_id = :batch_id AND status = 'released';

-- name: end_withdrawal(batch_id)!
-- B5: their objects have left the store; so have those of lines that had expired before.
UPDATE file
   SET status = CASE status WHEN 'withdrawing' THEN 'withdrawn' ELSE 'deleted' END
 WHERE batch_id = :batch_id AND status IN ('withdrawing', 'expired');

-- name: unlisted(since)
-- What may lie in the store though no index lists it or ever will: put by a release whose run lost the batch meanwhile.
-- A batch that may still be released is not among them.
SELECT name
  FROM file
  JOIN batch ON batch.id = batch_id
 WHERE name IS NOT NULL AND batch.status IN ('held', 'rejected', 'replaced', 'withdrawn')
   AND batch.starts_at > keyserver_now() - :since::interval
 ORDER BY name;

-- name: unconfirmed()
-- The batches of released files that nobody has yet fetched as a phone does, in the order of the indexes.
SELECT batch_id
  FROM file
 WHERE status = 'released' AND confirmed_at IS NULL
 GROUP BY batch_id
 ORDER BY min(feed_id), min(release_no);

-- name: confirm(batch_id, number)$
UPDATE file
   SET confirmed_at = keyserver_now()
 WHERE batch_id = :batch_id AND number = :number AND status = 'released' AND confirmed_at IS NULL
RETURNING number;
