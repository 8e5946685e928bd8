-- Export signing keys: which of them sign, where, and what they signed.

-- name: keys()
-- As files name them: the newest first (B18).
SELECT name, key_id, key_version, purpose, public_key, active_from, active_thru, revoked_at
  FROM signing_key
 ORDER BY active_from DESC, id DESC;

-- name: feeds()
-- Each feed with its keys, and how many files its index lists.
SELECT feed.name, feed.active_from, feed.active_thru,
       ARRAY(SELECT signing_key.name
               FROM feed_signing_key
               JOIN signing_key ON signing_key.id = signing_key_id
              WHERE feed_id = feed.id
              ORDER BY signing_key.active_from DESC, signing_key.id DESC),
       (SELECT count(*) FROM file WHERE feed_id = feed.id AND status = 'released')
  FROM feed
 ORDER BY feed.id;

-- name: carried()
-- How many of the files that an index lists carry a signature by a key.
SELECT feed.name, signing_key.name, count(*)
  FROM file
  JOIN feed ON feed.id = feed_id
  JOIN batch_signing_key USING (batch_id)
  JOIN signing_key ON signing_key.id = signing_key_id
 WHERE status = 'released'
 GROUP BY feed.name, signing_key.name;

-- name: now()$
SELECT keyserver_now();

-- name: revoke(name)$
UPDATE signing_key
   SET revoked_at = keyserver_now()
 WHERE name = :name AND revoked_at IS NULL
RETURNING revoked_at;

-- name: signed_batches(name)
-- Batches that a key was planned to sign: those that phones still find in an index, and those that may yet be released;
-- with the keys beside it that are not revoked.
SELECT batch.id, feed.name, batch.starts_at, batch.ends_at, batch.status,
       ARRAY(SELECT other.name
               FROM batch_signing_key AS beside
               JOIN signing_key AS other ON other.id = beside.signing_key_id
              WHERE beside.batch_id = batch.id AND other.id <> signing_key.id AND other.revoked_at IS NULL
              ORDER BY beside.position)
  FROM signing_key
  JOIN batch_signing_key ON batch_signing_key.signing_key_id = signing_key.id
  JOIN batch ON batch.id = batch_id
  JOIN feed ON feed.id = feed_id
 WHERE signing_key.name = :name
   AND (status IN ('planned', 'built', 'checked', 'signed', 'verified', 'held')
        OR EXISTS (SELECT FROM file WHERE file.batch_id = batch.id AND file.status = 'released'))
 ORDER BY batch.id;

-- name: lock_of_batch(batch_id)
-- The keys that a batch was planned with; none of them is revoked or changed until the transaction ends.
SELECT name, revoked_at IS NOT NULL
  FROM signing_key
  JOIN batch_signing_key ON signing_key_id = signing_key.id
 WHERE batch_id = :batch_id
 ORDER BY position
   FOR SHARE OF signing_key;
