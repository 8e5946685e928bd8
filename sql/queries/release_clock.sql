-- The release clock (W1) and the windows that it closes.

-- name: start(width_minutes)!
-- The first window is the one that is open now. Does nothing when the clock runs.
INSERT INTO release_clock (width_minutes, closed_through, rewritten_through)
SELECT :width_minutes, start, start
  FROM window_start(keyserver_now(), :width_minutes) AS start
ON CONFLICT DO NOTHING;

-- name: read()^
SELECT width_minutes, closed_through, rewritten_through, settable
  FROM release_clock;

-- name: now()$
SELECT keyserver_now();

-- name: schema_version()$
SELECT version_num FROM alembic_version;

-- name: next_window()^
-- The window to close next, and whether it is past: asked before its lock, which would stop uploads to an open window.
SELECT closed_through AS starts_at, closed_through + make_interval(mins => width_minutes) <= keyserver_now() AS is_past
  FROM release_clock;

-- name: lock_window(window_start)!
-- W3: exclusively, so that every upload that may write to the window has ended.
SELECT pg_advisory_xact_lock(1, window_lock(:window_start));

-- name: read_for_closing()^
-- A later statement than the lock: only its snapshot has the uploads that ended while we waited.
WITH clock AS MATERIALIZED (
    SELECT width_minutes, closed_through, closed_through + make_interval(mins => width_minutes) AS next_through
      FROM release_clock
       FOR UPDATE)
SELECT closed_through, next_through, next_through <= keyserver_now() AS is_past
  FROM clock;

-- name: advance(closed_through)!
UPDATE release_clock
   SET closed_through = :closed_through;

-- name: insert_closed_window(starts_at, ends_at)^
-- What the window holds at this moment: keys by the window they were published in, revisions by theirs.
INSERT INTO closed_window (starts_at, ends_at, keys, synthetic_keys, revisions, closed_at)
SELECT :starts_at, :ends_at,
       (SELECT count(*) FROM exposure WHERE created_at = :starts_at),
       (SELECT count(*) FROM exposure WHERE created_at = :starts_at AND synthetic),
       (SELECT count(*) FROM exposure WHERE revised_at = :starts_at),
       keyserver_now()
RETURNING keys, synthetic_keys, revisions;

-- name: next_to_rewrite()$
-- The start of the oldest closed window whose rows still lie as they came, or nothing.
SELECT rewritten_through
  FROM release_clock
 WHERE rewritten_through < closed_through;

-- name: rewritten(starts_at)!
UPDATE release_clock
   SET rewritten_through = :starts_at + make_interval(mins => width_minutes)
 WHERE rewritten_through = :starts_at;
