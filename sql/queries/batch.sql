-- Batches: planning (B2), claiming (B3), their guarded statuses (B1).

-- name: plan(ends_at, max_age)
-- B2: the batches that end at :ends_at, with a copy of their feeds' rules. A first batch starts with the feed, any other
-- where the one before it ended.
WITH ending AS MATERIALIZED (
    SELECT id, root, output_region, input_regions, exclude_regions, travelers, max_keys, active_from, padding_minimum,
           padding_spread
      FROM feed
     WHERE active_from < :ends_at
       AND (active_thru IS NULL OR active_thru >= :ends_at)
       AND (window_start(:ends_at, period_minutes) = :ends_at OR active_thru = :ends_at)
     ORDER BY id
       FOR SHARE),
planned AS (
    INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region, input_regions,
                       exclude_regions, travelers, max_keys)
    SELECT ending.id,
           coalesce((SELECT max(earlier.ends_at) FROM batch AS earlier
                      WHERE earlier.feed_id = ending.id AND earlier.replaces IS NULL),
                    window_start(active_from, release_clock.width_minutes)),
           :ends_at, :ends_at - :max_age::interval - interval '24 hours', :ends_at,
           root, output_region, input_regions, exclude_regions, travelers, max_keys
      FROM ending, release_clock
     ORDER BY ending.id
    RETURNING id, feed_id, starts_at, ends_at),
signed_by AS (
    INSERT INTO batch_signing_key (batch_id, position, signing_key_id)
    SELECT batch_id, position, signing_key_id
      FROM (SELECT planned.id AS batch_id, signing_key.id AS signing_key_id,
                   row_number() OVER (PARTITION BY planned.id ORDER BY active_from DESC, signing_key.id DESC) AS position
              FROM planned
              JOIN feed_signing_key USING (feed_id)
              JOIN signing_key ON signing_key.id = signing_key_id
             WHERE active_from <= :ends_at AND (active_thru IS NULL OR active_thru > :ends_at)) AS newest_first
     WHERE position <= 10)
SELECT planned.id, feed.name, planned.starts_at, planned.ends_at, feed.input_regions, feed.exclude_regions,
       feed.travelers, feed.padding_minimum, feed.padding_spread
  FROM planned
  JOIN feed ON feed.id = feed_id
 ORDER BY planned.id;

-- name: count_keys(batch_id, most)$
-- P2: as build selects them, counted only up to a bound.
SELECT count(*)
  FROM (SELECT FROM batch_rows(:batch_id) WHERE fate = 'released' LIMIT :most) AS counted;

-- name: regions_of_apps(input_regions, exclude_regions)
-- The sets of regions that real uploads of a feed carry.
SELECT DISTINCT regions
  FROM authorised_app
 WHERE regions && :input_regions AND NOT regions && :exclude_regions
 ORDER BY regions;

-- name: claim_due(run)
-- B3: of each feed that is not paused the first batch in its order that is not settled, unless another run works on it.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now),
first AS MATERIALIZED (
    SELECT DISTINCT ON (feed_id) batch.id
      FROM batch
      JOIN feed ON feed.id = feed_id AND NOT feed.paused
     WHERE status IN ('planned', 'built', 'checked', 'signed', 'verified')
     ORDER BY feed_id, batch.id),
free AS MATERIALIZED (
    SELECT batch.id
      FROM batch
      JOIN clock ON true
     WHERE batch.id IN (SELECT id FROM first)
       AND status IN ('planned', 'built', 'checked', 'signed', 'verified')
       AND (claimed_by IS NULL OR claimed_by = :run OR claim_renewed_at < now - interval '45 seconds')
     ORDER BY batch.id
       FOR UPDATE OF batch SKIP LOCKED),
claimed AS (
    UPDATE batch
       SET claimed_by = :run, claim_renewed_at = now
      FROM free, clock
     WHERE batch.id = free.id
    RETURNING batch.id, feed_id, starts_at, ends_at)
SELECT claimed.id, feed.name, claimed.starts_at, claimed.ends_at
  FROM claimed
  JOIN feed ON feed.id = feed_id
 ORDER BY claimed.id;

-- name: lock_claimed(batch_id, run)$
-- The batch, if the run holds it: as the last writer left it, whoever that was.
SELECT id
  FROM batch
 WHERE id = :batch_id AND claimed_by = :run
   FOR UPDATE;

-- name: renew_claims(batch_id, run)!
-- A claim is the run's, so all that it holds is renewed: a batch that waits for a free worker is not taken over meanwhile.
-- The others are left alone while another step writes to them, so that steps never wait for each other. A statement after
-- the one that locked: its snapshot has what that one waited for.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now),
siblings AS MATERIALIZED (
    SELECT id
      FROM batch
     WHERE claimed_by = :run AND id <> :batch_id
       FOR UPDATE SKIP LOCKED)
UPDATE batch
   SET claim_renewed_at = now
  FROM clock
 WHERE id = :batch_id OR id IN (SELECT id FROM siblings);

-- name: give_back_claims(run)!
UPDATE batch
   SET claimed_by = NULL, claim_renewed_at = NULL
 WHERE claimed_by = :run;

-- name: more_is_due()$
-- Whether another run has work: a feed's next batch that no run holds. What this run holds and did not settle waits
-- for the next scheduled run: asking at once would only repeat its failure.
SELECT EXISTS (
    SELECT FROM (SELECT DISTINCT ON (feed_id) claimed_by
                   FROM batch
                   JOIN feed ON feed.id = feed_id AND NOT feed.paused
                  WHERE status IN ('planned', 'built', 'checked', 'signed', 'verified')
                  ORDER BY feed_id, batch.id) AS first
     WHERE claimed_by IS NULL);

-- name: read(batch_id)^
SELECT batch.id, feed_id, feed.name, batch.starts_at, batch.ends_at, cutoff, batch.root, batch.output_region,
       batch.max_keys, status, claimed_by, failed_runs
  FROM batch
  JOIN feed ON feed.id = feed_id
 WHERE batch.id = :batch_id;

-- name: signing_keys(batch_id)
-- Those that the batch was planned with, the newest first.
SELECT signing_key.id, name, key_id, key_version, public_key
  FROM batch_signing_key
  JOIN signing_key ON signing_key.id = signing_key_id
 WHERE batch_id = :batch_id
 ORDER BY position;

-- name: key_runs(batch_id)
-- K2, B10: the keys of a batch grouped by their metadata, in the order of the file; the keys of a group in one piece.
SELECT report_type::text, transmission_risk, days_since_onset, interval_number, interval_count,
       string_agg(exposure_key, ''::bytea ORDER BY exposure_key)
  FROM batch_rows(:batch_id)
 WHERE fate = 'released'
 GROUP BY batch_rows.report_type, transmission_risk, days_since_onset, interval_number, interval_count
 ORDER BY batch_rows.report_type NULLS FIRST, transmission_risk, days_since_onset NULLS FIRST, interval_number,
          interval_count;

-- name: fates(batch_id)
-- A6: what became of each row of the span; they add up to the totals of its closed windows.
SELECT fate, count(*), count(*) FILTER (WHERE synthetic)
  FROM batch_rows(:batch_id)
 GROUP BY fate
 ORDER BY fate;

-- name: advance(to_status, counts, batch_id, from_status, run)$
-- B1: one way, and only by the run that holds the claim.
UPDATE batch
   SET status = :to_status, counts = coalesce(:counts, counts)
 WHERE id = :batch_id AND status = :from_status AND claimed_by = :run
RETURNING id;

-- name: hold(problem, batch_id, run)$
UPDATE batch
   SET status = 'held', problem = :problem
 WHERE id = :batch_id AND claimed_by = :run
   AND status IN ('planned', 'built', 'checked', 'signed', 'verified')
RETURNING id;

-- name: add_failed_run(run, batch_id)$
UPDATE batch
   SET failed_runs = array_append(failed_runs, :run)
 WHERE id = :batch_id AND claimed_by = :run AND NOT :run = ANY(failed_runs)
RETURNING cardinality(failed_runs);
