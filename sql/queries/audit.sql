-- The audit trail (A1, A2): one way in, and reading.

-- name: append(events)
-- Last in its transaction, in one round trip with COMMIT.
SELECT audit_append(:events);

-- name: events(after)
SELECT seq, at, kind, body, hash
  FROM audit_event
 WHERE seq > :after
 ORDER BY seq;

-- name: event(seq)^
SELECT seq, at, kind, body, hash
  FROM audit_event
 WHERE seq = :seq;

-- name: head()^
SELECT seq, at, kind, body, hash
  FROM audit_event
 ORDER BY seq DESC
 LIMIT 1;

-- name: listed(kind, batch_id, run, since, until, most)
-- The newest that meet all that is asked for; what is null asks for nothing. A kind's first word alone asks for all of it.
SELECT seq, at, kind, body, hash
  FROM audit_event
 WHERE (:kind::text IS NULL OR kind = :kind OR starts_with(kind, :kind || '.'))
   AND (:since::timestamptz IS NULL OR at >= :since)
   AND (:until::timestamptz IS NULL OR at < :until)
   AND (:batch_id::bigint IS NULL
        OR convert_from(body, 'UTF8')::jsonb -> 'subject' -> 'batch' = to_jsonb(:batch_id::bigint))
   AND (:run::text IS NULL OR convert_from(body, 'UTF8')::jsonb ->> 'run' = :run)
 ORDER BY seq DESC
 LIMIT :most;
