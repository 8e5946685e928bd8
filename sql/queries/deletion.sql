-- Deletion on demand (R5): what an app has in a span of windows, which files hold some of it, and its removal.

-- name: clock()^
SELECT width_minutes, closed_through
  FROM release_clock;

-- name: hold_clock()$
-- Until the transaction ends no window is closed and no batch is planned.
SELECT hold_release_clock();

-- name: windows(app_name, starts_at, ends_at)
-- The rows that the span's windows published, by these windows; and by the windows that revised them.
WITH stored AS MATERIALIZED (
    SELECT created_at, revised_at
      FROM exposure
     WHERE created_at >= :starts_at AND created_at < :ends_at AND app_name = :app_name),
counted AS (
    SELECT created_at AS starts_at, count(*) AS keys, 0 AS revisions
      FROM stored
     GROUP BY created_at
    UNION ALL
    SELECT revised_at, 0, count(*)
      FROM stored
     WHERE revised_at IS NOT NULL
     GROUP BY revised_at)
SELECT starts_at, sum(keys)::integer, sum(revisions)::integer
  FROM counted
 GROUP BY starts_at
 ORDER BY starts_at;

-- name: edge(app_name, starts_at, low, most)$
-- The key before which a window has this many of the rows, counted from another; nothing when it has fewer.
SELECT exposure_key
  FROM exposure
 WHERE created_at = :starts_at AND app_name = :app_name AND exposure_key >= :low
 ORDER BY exposure_key
OFFSET :most
 LIMIT 1;

-- name: lock_unreleased(starts_at)!
-- Every batch that is on its way and may be made of rows that were published then or later. In the order of their numbers:
-- two deletions never wait for each other in a circle.
SELECT FROM batch
 WHERE status IN ('planned', 'built', 'checked', 'signed', 'verified') AND ends_at > :starts_at
 ORDER BY id
   FOR UPDATE;

-- name: holders(app_name, starts_at, ends_at, low, high)
-- The batches that were made with files, and how many of the rows these hold: in their keys, or told as revised (K2, K3).
-- What a batch was made of does not change: its rules, its span and its carriers are written down with it.
WITH wanted AS MATERIALIZED (
    SELECT exposure AS stored, created_at, revised_at
      FROM exposure
     WHERE created_at >= :starts_at AND created_at < :ends_at AND app_name = :app_name
       AND exposure_key >= :low AND exposure_key < :high),
built AS MATERIALIZED (
    SELECT batch
      FROM batch
     WHERE carriers IS NOT NULL AND status <> 'empty' AND ends_at > :starts_at),
publishing AS MATERIALIZED (
    SELECT created_at, batch
      FROM (SELECT DISTINCT created_at FROM wanted) AS published
      JOIN built ON created_at >= (batch).starts_at AND created_at < (batch).ends_at),
keys AS (
    SELECT (batch).id, (stored).exposure_key
      FROM wanted
      JOIN publishing USING (created_at)
     WHERE key_fate(batch, stored) = 'released'),
revising AS (
    SELECT (batch).id, (batch).carriers, (batch).withdrawn_carriers
      FROM (SELECT DISTINCT revised_at FROM wanted) AS revised
      JOIN built ON revised_at >= (batch).starts_at AND revised_at < (batch).ends_at
    UNION
    SELECT (batch).id, (batch).carriers, (batch).withdrawn_carriers
      FROM publishing
     WHERE (batch).supplement),
told AS (
    SELECT revising.id, revision.exposure_key
      FROM revising
     CROSS JOIN LATERAL batch_revisions(revising.id, carriers, withdrawn_carriers) AS revision
      JOIN wanted ON (stored).exposure_key = revision.exposure_key
     WHERE revision.fate IN ('released', 'retold'))
SELECT batch.id, feed.name, batch.starts_at, batch.ends_at, batch.status, batch.approved, later.id, count(*)::integer
  FROM (SELECT id, exposure_key FROM keys UNION SELECT id, exposure_key FROM told) AS held
  JOIN batch USING (id)
  JOIN feed ON feed.id = batch.feed_id
  LEFT JOIN batch AS later ON later.replaces = batch.id
 GROUP BY batch.id, feed.name, later.id
 ORDER BY batch.id;

-- name: hold(batch_id, problem, failed_expectations)$
-- B4: whatever run works on it loses it.
UPDATE batch
   SET status = 'held', problem = :problem, failed_expectations = :failed_expectations, held_at = keyserver_now(),
       claimed_by = NULL, claim_renewed_at = NULL
 WHERE id = :batch_id AND status IN ('built', 'checked', 'signed', 'verified')
RETURNING id;

-- name: delete(app_name, starts_at, low, high, closed_through)
-- A part of a window's rows, counted by the windows that published and that revised them. A revision of a window that is
-- still open is in no total yet, and will be in none.
WITH gone AS (
    DELETE FROM exposure
     WHERE created_at = :starts_at AND app_name = :app_name AND exposure_key >= :low AND exposure_key < :high
    RETURNING created_at, revised_at),
counted AS (
    SELECT created_at AS starts_at, count(*) AS keys, 0 AS revisions
      FROM gone
     GROUP BY created_at
    UNION ALL
    SELECT revised_at, 0, count(*)
      FROM gone
     WHERE revised_at < :closed_through
     GROUP BY revised_at)
SELECT starts_at, sum(keys)::integer, sum(revisions)::integer
  FROM counted
 GROUP BY starts_at
 ORDER BY starts_at;

-- name: insert(app_name, starts_at, ends_at, reason, carried)$
INSERT INTO deletion (at, app_name, starts_at, ends_at, reason, carried)
VALUES (keyserver_now(), :app_name, :starts_at, :ends_at, :reason, :carried)
RETURNING id;

-- name: insert_window(deletion_id, starts_at, keys, revisions)!
INSERT INTO deletion_window (deletion_id, starts_at, keys, revisions)
VALUES (:deletion_id, :starts_at, :keys, :revisions);

-- name: of_span(starts_at, ends_at)^
-- A6: what was deleted of a span's windows, in how many parts.
SELECT coalesce(sum(keys), 0)::integer, coalesce(sum(revisions), 0)::integer
  FROM deletion_window
 WHERE starts_at >= :starts_at AND starts_at < :ends_at;

-- name: carried(app_name, starts_at, ends_at)
-- The batches whose files had some of what was deleted, as they are now.
SELECT batch.id, feed.name, batch.starts_at, batch.ends_at, batch.status, batch.approved, later.id, 0
  FROM batch
  JOIN feed ON feed.id = batch.feed_id
  LEFT JOIN batch AS later ON later.replaces = batch.id
 WHERE batch.id IN (SELECT unnest(carried)
                      FROM deletion
                     WHERE app_name = :app_name AND deletion.starts_at >= :starts_at AND deletion.ends_at <= :ends_at)
 ORDER BY batch.id;

-- name: held(expectation)
-- The batches that a deletion has held, and nobody has replaced yet.
SELECT id
  FROM batch
 WHERE status = 'held' AND :expectation = ANY (failed_expectations)
 ORDER BY id;

-- name: staged(batch_ids)
-- Under which hashes files of these batches were staged, first the export.bin, then the zip.
SELECT export_sha256, zip_sha256
  FROM file
 WHERE batch_id = ANY (:batch_ids::bigint[])
 ORDER BY batch_id, number;
