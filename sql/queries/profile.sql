-- What recent uploads look like (P1): counters of days, without keys. What counts less than :least leaves the database
-- only in sums.

-- name: combinations(last_day, least)
-- Of the 14 days up to :last_day.
SELECT report_type, keys, oldest_days, sum(uploads)::bigint
  FROM profile
 WHERE day > :last_day::date - 14 AND day <= :last_day::date
 GROUP BY report_type, keys, oldest_days
HAVING sum(uploads) >= :least
 ORDER BY report_type, keys, oldest_days;

-- name: rarer(last_day, least)
-- All rarer combinations together: each by its report type, its age of the oldest and its number of days without a key;
-- the row without any of these is their sum.
WITH combination AS (
    SELECT report_type, oldest_days, oldest_days - keys AS missing_days, sum(uploads)::bigint AS uploads
      FROM profile
     WHERE day > :last_day::date - 14 AND day <= :last_day::date
     GROUP BY report_type, keys, oldest_days
    HAVING sum(uploads) < :least)
SELECT report_type, oldest_days, missing_days, sum(uploads)::bigint
  FROM combination
 GROUP BY GROUPING SETS ((report_type), (oldest_days), (missing_days), ())
HAVING sum(uploads) >= :least OR grouping(report_type, oldest_days, missing_days) = 7 AND sum(uploads) > 0
 ORDER BY report_type, oldest_days, missing_days;

-- name: marginals(last_day, least)
-- Likewise; the rows without a value are the sums of all rarer ones.
WITH marginal AS (
    SELECT what, value, sum(count)::bigint AS count
      FROM profile_marginal
     WHERE day > :last_day::date - 14 AND day <= :last_day::date
     GROUP BY what, value)
SELECT what, value, count
  FROM marginal
 WHERE count >= :least
 UNION ALL
SELECT what, NULL, sum(count)::bigint
  FROM marginal
 WHERE count < :least
 GROUP BY what
 ORDER BY what, value;
