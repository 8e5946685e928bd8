-- The audit trail (A1, A2): one way in, and reading.

-- name: append(events)
-- Last in its transaction, in one round trip with COMMIT.
SELECT audit_append(:events);

-- name: events(after)
SELECT seq, at, kind, body, hash
  FROM audit_event
 WHERE seq > :after
 ORDER BY seq;
