-- What the database knows of the files in the store, asked after it was restored.

-- name: listed()
-- The files that the indexes list.
SELECT name
  FROM file
 WHERE status = 'released'
 ORDER BY feed_id, release_no;

-- name: known(names)
SELECT file.name, file.batch_id, feed.root, file.status, file.zip_sha256, batch.starts_at
  FROM file
  JOIN batch ON batch.id = file.batch_id
  JOIN feed ON feed.id = file.feed_id
 WHERE file.name = ANY (:names::text[])
 ORDER BY file.feed_id, file.release_no, file.name;

-- name: declared(archives)
-- The archives of older logs that an event tells of.
SELECT DISTINCT convert_from(body, 'UTF8')::jsonb -> 'subject' ->> 'archive'
  FROM audit_event
 WHERE kind = 'database.restored'
   AND convert_from(body, 'UTF8')::jsonb -> 'subject' ->> 'archive' = ANY (:archives::text[]);
