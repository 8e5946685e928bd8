-- The keys that encrypt revision tokens (publish.md 3.2), wrapped.

-- name: allowed()
-- What encrypts comes first: the newest, but not one that another process may not have read yet.
SELECT id, aad, wrapped_key
  FROM revision_key
 WHERE allowed
 ORDER BY created_at > keyserver_now() - interval '2 minutes', created_at DESC, id DESC;

-- name: lock_rotation()!
SELECT pg_advisory_xact_lock(4, 0);

-- name: now()$
-- A later statement than the lock, so that no key is older than the one before it.
SELECT keyserver_now();

-- name: ages()
SELECT id, allowed, created_at, lag(created_at) OVER (ORDER BY created_at DESC, id DESC) AS replaced_at
  FROM revision_key
 WHERE destroyed_at IS NULL
 ORDER BY created_at DESC, id DESC;

-- name: insert(aad, wrapped_key, created_at)$
INSERT INTO revision_key (aad, wrapped_key, created_at)
VALUES (:aad, :wrapped_key, :created_at)
RETURNING id;

-- name: destroy(id, destroyed_at)!
UPDATE revision_key
   SET aad = NULL, wrapped_key = NULL, allowed = false, destroyed_at = :destroyed_at
 WHERE id = :id;
