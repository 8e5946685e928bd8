-- What batches are made of, as it was written when they were planned (B1).

-- name: plans(first, last)
SELECT batch.id, feed.name, starts_at, ends_at, cutoff, revisions_to, replaces, batch.root, batch.output_region,
       batch.input_regions, batch.exclude_regions, batch.travelers, batch.max_keys, with_keys, supplement, end_offset,
       approved, batch.padding_minimum, batch.padding_spread,
       ARRAY(SELECT key_id || '-' || key_version
               FROM batch_signing_key
               JOIN signing_key ON signing_key.id = signing_key_id
              WHERE batch_id = batch.id
              ORDER BY position)
  FROM batch
  JOIN feed ON feed.id = feed_id
 WHERE batch.id BETWEEN :first AND :last
 ORDER BY batch.id;
