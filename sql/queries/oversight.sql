-- What operators and auditors ask: across aggregates, and only reading.

-- name: clock()^
SELECT keyserver_now(), make_interval(mins => width_minutes), closed_through, period
  FROM release_clock, retention;

-- name: stored_key(exposure_key)^
SELECT created_at, to_timestamp((interval_number + interval_count)::bigint * 600), report_type::text, traveler, regions,
       synthetic, revised_at, revised_report_type::text
  FROM exposure
 WHERE exposure_key = :exposure_key;

-- name: feeds(moment)
-- Each feed, where its next batch starts, and at which end the batch is planned that will have a moment (B2).
SELECT feed.id, name, active_from, active_thru, paused,
       coalesce((SELECT max(ends_at) FROM batch WHERE feed_id = feed.id AND replaces IS NULL),
                window_start(active_from, width_minutes)),
       least(window_start(greatest(:moment, closed_through), period_minutes) + make_interval(mins => period_minutes),
             active_thru)
  FROM feed, release_clock
 ORDER BY name;

-- name: prospects(exposure_key, max_age)
-- What each feed's rules of now make of a key: of the batch that would be planned by them.
SELECT feed.id,
       key_fate(jsonb_populate_record(NULL::batch, to_jsonb(feed) || jsonb_build_object(
                    'with_keys', true,
                    'cutoff', next.ends_at - :max_age::interval - interval '24 hours',
                    'revisions_to', next.ends_at)),
                exposure)
  FROM exposure
 CROSS JOIN feed
 CROSS JOIN release_clock
 CROSS JOIN LATERAL (
       SELECT window_start(greatest(created_at, closed_through), period_minutes)
              + make_interval(mins => period_minutes) AS ends_at) AS next
 WHERE exposure_key = :exposure_key;

-- name: batches_of_key(exposure_key)
-- Every batch whose span has the key's window or that of its revision, and what it makes of the key (K2).
SELECT batch.id, batch.feed_id, batch.starts_at, batch.ends_at, batch.cutoff, batch.revisions_to, batch.status,
       batch.replaces, later.id, batch.problem, batch.held_at, batch.reason, batch.claimed_by IS NOT NULL,
       cardinality(batch.failed_runs), batch.carriers, batch.withdrawn_carriers,
       (SELECT min(earlier.id)
          FROM batch AS earlier
         WHERE earlier.feed_id = batch.feed_id AND earlier.id < batch.id
           AND earlier.status IN ('planned', 'built', 'checked', 'signed', 'verified')),
       CASE WHEN exposure.created_at >= batch.starts_at AND exposure.created_at < batch.ends_at
            THEN key_fate(batch, exposure) END
  FROM exposure
  JOIN batch ON tstzrange(batch.starts_at, batch.ends_at) @> exposure.created_at
             OR tstzrange(batch.starts_at, batch.ends_at) @> exposure.revised_at
  LEFT JOIN batch AS later ON later.replaces = batch.id
 WHERE exposure_key = :exposure_key
 ORDER BY batch.id;

-- name: revision_of_key(batch_id, carriers, withdrawn, exposure_key)$
-- What a batch makes of a key's revision; nothing when it is not for it to tell (K3).
SELECT fate
  FROM batch_revisions(:batch_id, :carriers, :withdrawn) AS revision
 WHERE revision.exposure_key = :exposure_key;

-- name: windows_of_span(starts_at, ends_at)
-- The closed windows of a span: what they held then, and what is there of it now.
SELECT starts_at, ends_at, closed_window.keys, synthetic_keys, closed_window.revisions,
       (SELECT count(*) FROM exposure WHERE created_at = closed_window.starts_at),
       (SELECT count(*) FROM exposure WHERE revised_at = closed_window.starts_at),
       on_demand.keys, on_demand.revisions, starts_at <= deleted_through, starts_at + period
  FROM closed_window
 CROSS JOIN retention
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(gone.keys), 0)::integer AS keys, coalesce(sum(gone.revisions), 0)::integer AS revisions
         FROM deletion_window AS gone
        WHERE gone.starts_at = closed_window.starts_at) AS on_demand
 WHERE starts_at >= :starts_at AND starts_at < :ends_at
 ORDER BY starts_at;

-- name: standing_batches(moment)
-- Of each feed the batch that stands for a window: the last of those that replaced each other.
SELECT id, feed_id, status, replaces, carriers, withdrawn_carriers
  FROM batch
 WHERE tstzrange(starts_at, ends_at) @> :moment::timestamptz
   AND NOT EXISTS (SELECT FROM batch AS later WHERE later.replaces = batch.id)
 ORDER BY id;

-- name: window_fates(batch_id, starts_at)
SELECT key_fate(batch, exposure), count(*), count(*) FILTER (WHERE synthetic)
  FROM batch
  JOIN exposure ON created_at = :starts_at
 WHERE batch.id = :batch_id
 GROUP BY 1
 ORDER BY 1;

-- name: window_revision_fates(batch_id, carriers, withdrawn, starts_at)
SELECT fate, count(*)
  FROM batch_revisions(:batch_id, :carriers, :withdrawn)
  JOIN exposure USING (exposure_key)
 WHERE exposure.revised_at = :starts_at
 GROUP BY fate
 ORDER BY fate;

-- name: batch_of_file(name)$
-- By the name that the index lists, or by an address that ends with it.
SELECT batch_id
  FROM file
 WHERE name = :name OR right(:name, length(name) + 1) = '/' || name;

-- name: batch(batch_id)^
SELECT batch.id, feed.name, batch.root, batch.starts_at, batch.ends_at, batch.status, batch.cutoff, batch.revisions_to,
       batch.output_region, batch.input_regions, batch.exclude_regions, batch.travelers, batch.max_keys,
       batch.with_keys, batch.supplement, batch.replaces, later.id, batch.reason, batch.problem, batch.approved,
       batch.counts, batch.code_version, batch.carriers, batch.withdrawn_carriers
  FROM batch
  JOIN feed ON feed.id = batch.feed_id
  LEFT JOIN batch AS later ON later.replaces = batch.id
 WHERE batch.id = :batch_id;

-- name: files(batch_id)
SELECT number, name, status, starts_at, ends_at, keys, revised_keys, export_sha256, zip_sha256, zip_bytes, compressor,
       release_no, released_at, confirmed_at, left_index_at
  FROM file
 WHERE batch_id = :batch_id
 ORDER BY number;

-- name: events_of_batch(batch_id)
SELECT seq, at, kind, body ->> 'actor', body ->> 'run', body ->> 'task', body ->> 'dag', (body ->> 'map_index')::integer
  FROM (SELECT seq, at, kind, convert_from(body, 'UTF8')::jsonb AS body
          FROM audit_event
         WHERE NOT starts_with(kind, 'window.')
           -- A batch is planned when its end is past, so no earlier event names it, whatever the clock did later.
           AND seq >= (SELECT min(seq) FROM audit_event
                        WHERE at >= (SELECT ends_at FROM batch WHERE id = :batch_id))) AS event
 WHERE body -> 'subject' -> 'batch' = to_jsonb(:batch_id::bigint)
 ORDER BY seq;

-- name: configuration_before(seq)^
-- The configuration by which a batch was planned: the last that was applied before.
SELECT seq, convert_from(body, 'UTF8')::jsonb -> 'hashes' ->> 'configuration'
  FROM audit_event
 WHERE kind = 'configuration.applied' AND seq < :seq
 ORDER BY seq DESC
 LIMIT 1;

-- name: index_after(feed, seq)^
-- The index that first listed what an event released.
SELECT seq, at
  FROM audit_event
 WHERE kind = 'index.written' AND seq > :seq
   AND convert_from(body, 'UTF8')::jsonb -> 'subject' ->> 'feed' = :feed
 ORDER BY seq
 LIMIT 1;

-- name: feeds_now()
-- How each feed stands: the newest batch that is out or had nothing to put out, and what waits behind or beside it.
SELECT feed.name, output_region, make_interval(mins => period_minutes), paused, development, active_from, active_thru,
       newest.id, newest.ends_at, newest.status, unsettled.waiting, unsettled.held, unsettled.withdrawing
  FROM feed
  LEFT JOIN LATERAL (
       SELECT id, ends_at, status
         FROM batch
        WHERE feed_id = feed.id AND status IN ('released', 'empty')
        ORDER BY ends_at DESC, id DESC
        LIMIT 1) AS newest ON true
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE status NOT IN ('held', 'withdrawing')) AS waiting,
              coalesce(array_agg(id ORDER BY id) FILTER (WHERE status = 'held'), '{}') AS held,
              coalesce(array_agg(id ORDER BY id) FILTER (WHERE status = 'withdrawing'), '{}') AS withdrawing
         FROM batch
        WHERE feed_id = feed.id
          AND status IN ('planned', 'built', 'checked', 'signed', 'verified', 'held', 'withdrawing')) AS unsettled
 ORDER BY feed.name;

-- name: last_event(kind, within)^
-- The last event of a kind, no older than some time: found by the index on times.
SELECT seq, at
  FROM keyserver_now() AS now
  JOIN audit_event ON at > now - :within::interval
 WHERE kind = :kind
 ORDER BY at DESC, seq DESC
 LIMIT 1;

-- name: event(seq)^
SELECT seq, at, kind, convert_from(body, 'UTF8'), encode(hash, 'hex')
  FROM audit_event
 WHERE seq = :seq;
