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
                       exclude_regions, travelers, max_keys, padding_minimum, padding_spread)
    SELECT ending.id,
           coalesce((SELECT max(earlier.ends_at) FROM batch AS earlier
                      WHERE earlier.feed_id = ending.id AND earlier.replaces IS NULL),
                    window_start(active_from, release_clock.width_minutes)),
           :ends_at, :ends_at - :max_age::interval - interval '24 hours', :ends_at,
           root, output_region, input_regions, exclude_regions, travelers, max_keys, padding_minimum, padding_spread
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
             WHERE revoked_at IS NULL AND active_from <= :ends_at
               AND (active_thru IS NULL OR active_thru > :ends_at)) AS newest_first
     WHERE position <= 10)
SELECT planned.id, feed.name, planned.starts_at, planned.ends_at, feed.input_regions, feed.exclude_regions,
       feed.travelers, feed.padding_minimum, feed.padding_spread, feed.padding_empty
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
SELECT batch.id, feed_id, feed.name, batch.starts_at, batch.ends_at, cutoff, revisions_to, replaces, supplement,
       end_offset, approved, batch.root, batch.output_region, batch.max_keys, status, claimed_by, failed_runs, carriers,
       withdrawn_carriers
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

-- name: read_hashed()!
-- Rows are grouped in memory, and what was grouped is put in order: sorting the rows themselves takes three times as long.
SELECT set_config('work_mem', '256MB', true), set_config('enable_sort', 'off', true), set_config('jit', 'off', true);

-- name: key_runs(batch_id, low, high)
-- K2, B10, A6: every row of a batch's span between two keys, in one pass: counted by what becomes of it and by its
-- metadata, in the order of the file; the keys of a group that are released in one piece, in no order.
WITH run AS MATERIALIZED (
    SELECT fate, report_type, transmission_risk, days_since_onset, interval_number, interval_count, count(*) AS rows,
           count(*) FILTER (WHERE synthetic) AS synthetic,
           string_agg(exposure_key, ''::bytea) FILTER (WHERE fate = 'released') AS keys
      FROM batch_rows(:batch_id)
     WHERE exposure_key >= :low AND exposure_key < :high
     GROUP BY fate, report_type, transmission_risk, days_since_onset, interval_number, interval_count)
SELECT fate, rows, synthetic, report_type::text, transmission_risk, days_since_onset, interval_number, interval_count, keys
  FROM run
 ORDER BY run.report_type NULLS FIRST, transmission_risk, days_since_onset NULLS FIRST, interval_number, interval_count;

-- name: fates(batch_id)
-- A6: what became of each row of the span; they add up to the totals of its closed windows.
SELECT fate, count(*), count(*) FILTER (WHERE synthetic)
  FROM batch_rows(:batch_id)
 GROUP BY fate
 ORDER BY fate;

-- name: carriers(batch_id)^
-- K3: of the batches that may have had a revised key of the span in `keys`, those that are released, and those that were.
WITH published AS MATERIALIZED (
    SELECT DISTINCT batch.feed_id, exposure.created_at
      FROM batch
      JOIN exposure ON exposure.revised_at >= batch.starts_at AND exposure.revised_at < batch.ends_at
     WHERE batch.id = :batch_id),
other AS (
    SELECT batch.id, batch.status
      FROM published
      JOIN batch ON batch.feed_id = published.feed_id
       AND tstzrange(batch.starts_at, batch.ends_at) @> published.created_at
    UNION
    SELECT batch.id, batch.status
      FROM batch
     WHERE batch.id IN (SELECT batch_chain(:batch_id)))
SELECT coalesce(array_agg(id ORDER BY id) FILTER (WHERE status = 'released'), '{}'),
       coalesce(array_agg(id ORDER BY id) FILTER (WHERE status IN ('withdrawing', 'withdrawn')), '{}')
  FROM other;

-- name: count_revised_keys(batch_id, carriers, withdrawn, most)$
SELECT count(*)
  FROM (SELECT FROM batch_revisions(:batch_id, :carriers, :withdrawn) WHERE fate IN ('released', 'retold') LIMIT :most)
       AS counted;

-- name: revised_key_runs(batch_id, carriers, withdrawn)
-- K3, B10, A6: the same of the revisions that a batch has to tell of; a revision of no window of its span counts only
-- where it is told again.
SELECT CASE WHEN in_span THEN 'revised_' || fate ELSE 'revised_retold_outside' END, count(*), 0, report_type::text,
       transmission_risk, days_since_onset, interval_number, interval_count,
       string_agg(exposure_key, ''::bytea) FILTER (WHERE fate IN ('released', 'retold'))
  FROM batch_revisions(:batch_id, :carriers, :withdrawn) AS revision
 WHERE in_span OR fate = 'retold'
 GROUP BY 1, revision.report_type, transmission_risk, days_since_onset, interval_number, interval_count
 ORDER BY revision.report_type, transmission_risk, days_since_onset NULLS FIRST, interval_number, interval_count, 1;

-- name: revision_fates(batch_id, carriers, withdrawn)
-- A6: what became of each revision of the span, and how many revocations a supplement tells that are of another.
SELECT CASE WHEN in_span THEN 'revised_' || fate ELSE 'revised_retold_outside' END, count(*)
  FROM batch_revisions(:batch_id, :carriers, :withdrawn)
 WHERE in_span OR fate = 'retold'
 GROUP BY 1
 ORDER BY 1;

-- name: advance(to_status, batch_id, from_status, run)$
-- B1: one way, and only by the run that holds the claim.
UPDATE batch
   SET status = :to_status
 WHERE id = :batch_id AND status = :from_status AND claimed_by = :run
RETURNING id;

-- name: settle_contents(counts, carriers, withdrawn, code_version, batch_id)!
-- What the batch turned out to hold, in the transaction that sets `built` or `empty`.
UPDATE batch
   SET counts = :counts, carriers = :carriers, withdrawn_carriers = :withdrawn, code_version = :code_version
 WHERE id = :batch_id;

-- name: hold(problem, failed_expectations, batch_id, run)$
UPDATE batch
   SET status = 'held', problem = :problem, failed_expectations = :failed_expectations, held_at = keyserver_now()
 WHERE id = :batch_id AND claimed_by = :run
   AND status IN ('planned', 'built', 'checked', 'signed', 'verified')
RETURNING id;

-- name: add_failed_run(run, batch_id)$
UPDATE batch
   SET failed_runs = array_append(failed_runs, :run)
 WHERE id = :batch_id AND claimed_by = :run AND NOT :run = ANY(failed_runs)
RETURNING cardinality(failed_runs);

-- name: lock_release_clock()!
-- B1: the lock that closing takes, so that every batch planned before another ends at or before its `revisions_to`.
SELECT FROM release_clock FOR UPDATE;

-- name: lock(batch_id)!
SELECT FROM batch WHERE id = :batch_id FOR UPDATE;

-- name: replaced_by(batch_id)$
SELECT id
  FROM batch
 WHERE replaces = :batch_id;

-- name: plan_replacing(batch_id, max_age, with_keys, approved, reason)$
-- B1, T3: the same span by the same rules, once more. A statement after the one that locked the release clock: its snapshot
-- has what that one waited for. The names of files that were signed are taken, as are the ends that phones have seen of
-- files that were out: equal bytes would ask for them again.
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now),
chain AS MATERIALIZED (
    SELECT :batch_id::bigint AS id
     UNION ALL
    SELECT earlier FROM batch_chain(:batch_id) AS chain (earlier)),
taken AS (
    SELECT bool_or(batch.status IN ('released', 'withdrawing', 'withdrawn') OR file.name IS NOT NULL) AS supplement,
           coalesce(max(extract(epoch FROM file.ends_at - batch.ends_at)), 0)::integer AS end_offset
      FROM batch
      LEFT JOIN file ON file.batch_id = batch.id
     WHERE batch.id IN (SELECT id FROM chain)),
planned AS (
    INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, replaces, root, output_region, input_regions,
                       exclude_regions, travelers, max_keys, with_keys, supplement, end_offset, approved, reason)
    SELECT feed_id, starts_at, ends_at,
           -- Its planning is after its end, unless the clock went back.
           greatest(now, ends_at) - :max_age::interval - interval '24 hours', closed_through, replaced.id, root,
           output_region, input_regions, exclude_regions, travelers, max_keys, :with_keys, taken.supplement,
           CASE WHEN taken.supplement THEN taken.end_offset ELSE 0 END, :approved, :reason
      FROM batch AS replaced, release_clock, clock, taken
     WHERE replaced.id = :batch_id
    RETURNING id, feed_id),
signed_by AS (
    INSERT INTO batch_signing_key (batch_id, position, signing_key_id)
    SELECT batch_id, position, signing_key_id
      FROM (SELECT planned.id AS batch_id, signing_key.id AS signing_key_id,
                   row_number() OVER (ORDER BY active_from DESC, signing_key.id DESC) AS position
              FROM planned
              JOIN feed_signing_key USING (feed_id)
              JOIN signing_key ON signing_key.id = signing_key_id
              JOIN clock ON active_from <= now AND (active_thru IS NULL OR active_thru > now)
             WHERE revoked_at IS NULL) AS newest_first
     WHERE position <= 10)
SELECT id FROM planned;

-- name: decision(batch_id)^
-- What an operator decides on, and has decided (B4).
SELECT with_keys, problem, failed_expectations, held_at, reason
  FROM batch
 WHERE id = :batch_id;

-- name: held()
SELECT id
  FROM batch
 WHERE status = 'held'
 ORDER BY id;

-- name: unanswered(patience)
-- B4: held for so long that nobody will answer.
SELECT id
  FROM batch
 WHERE status = 'held' AND held_at <= keyserver_now() - :patience::interval
 ORDER BY id;

-- name: settle(to_status, reason, batch_id, from_status)$
-- B1: one way, by an operator's decision; no run holds a claim on what is decided.
UPDATE batch
   SET status = :to_status, reason = coalesce(:reason, reason)
 WHERE id = :batch_id AND status = :from_status
RETURNING id;

-- name: situation(batch_id)^
-- B4: what an operator who decides about a batch has to know of its feed; how old is what phones have of it.
SELECT make_interval(mins => feed.period_minutes), batch.counts, keyserver_now(),
       (SELECT max(other.ends_at)
          FROM batch AS other
         WHERE other.feed_id = batch.feed_id AND other.status IN ('released', 'empty') AND other.with_keys)
  FROM batch
  JOIN feed ON feed.id = feed_id
 WHERE batch.id = :batch_id;

-- name: earlier_keys(batch_id, before)
-- B4: how many real keys the feed's ordinary batches of the same length had that ended within a time before this one
-- starts: the median of each day's batches, and of all of them, where the day is null.
SELECT (earlier.starts_at AT TIME ZONE 'UTC')::date AS day,
       percentile_cont(0.5) WITHIN GROUP (
           ORDER BY coalesce((earlier.counts ->> 'released')::integer, 0)
                  - coalesce((earlier.counts ->> 'synthetic')::integer, 0))
  FROM batch
  JOIN batch AS earlier ON earlier.feed_id = batch.feed_id AND earlier.replaces IS NULL
   AND earlier.ends_at - earlier.starts_at = batch.ends_at - batch.starts_at
   AND earlier.ends_at <= batch.starts_at AND earlier.ends_at > batch.starts_at - :before::interval
 WHERE batch.id = :batch_id
   AND earlier.status IN ('empty', 'released', 'withdrawing', 'withdrawn')
 GROUP BY GROUPING SETS ((1), ())
 ORDER BY day;
