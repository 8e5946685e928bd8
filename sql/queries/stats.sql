-- Statistics of uploads, as health authorities may read them (publish.md 6).

-- name: authorities()
-- A row an (authority, key); the later columns are null where an authority has no key.
SELECT health_authority.issuer, health_authority.id, health_authority.stats_enabled, health_authority_key.kid,
       health_authority_key.public_key, health_authority_key.valid_from, health_authority_key.valid_thru
  FROM health_authority
  LEFT JOIN health_authority_key ON health_authority_key.health_authority_id = health_authority.id
 ORDER BY health_authority.id, health_authority_key.kid;

-- name: now()$
SELECT keyserver_now();

-- name: counted(authority_id)
-- A row an (hour, shard).
SELECT hour, publish, teks, revisions, oldest_tek_days, onset_age_days, missing_onset
  FROM upload_stats
 WHERE health_authority_id = :authority_id;
