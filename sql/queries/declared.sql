-- The declared configuration as it is stored: who may upload, who signs, what is released where.
-- One transaction reads it and writes it; what is written names things as the document does (issuer, name, kid).

-- name: lock_clock()!
-- The row that closing locks first: while it is held no window closes, so no batch is planned, and no other
-- configuration is applied.
SELECT FROM release_clock FOR UPDATE;

-- name: lock_feeds()!
-- B2: before closed_through is read, in a later statement.
SELECT FROM feed ORDER BY id FOR UPDATE;

-- name: read_clock()^
SELECT keyserver_now(), width_minutes, closed_through
  FROM release_clock;

-- name: health_authorities()
SELECT issuer, audience, name, jwks_uri, stats_enabled,
       (extract(epoch FROM certificate_max_life) / 60)::integer
  FROM health_authority
 ORDER BY id;

-- name: health_authority_keys()
SELECT issuer, kid, public_key, valid_from, valid_thru
  FROM health_authority_key
  JOIN health_authority ON health_authority.id = health_authority_id
 ORDER BY issuer, kid;

-- name: apps()
SELECT authorised_app.name, regions, array_remove(array_agg(issuer), NULL), bypass_verification, bypass_revision_token
  FROM authorised_app
  LEFT JOIN authorised_app_authority ON app_name = authorised_app.name
  LEFT JOIN health_authority ON health_authority.id = health_authority_id
 GROUP BY authorised_app.name;

-- name: app_attestation()
SELECT app_name, platform, kind, settings
  FROM app_attestation
 ORDER BY app_name, platform;

-- name: signing_keys()
SELECT name, key_id, key_version, public_key, active_from, active_thru, purpose
  FROM signing_key
 ORDER BY id;

-- name: revoked_signing_keys()
-- No declaration: what was revoked stays so (`keyserver keys revoke`).
SELECT name
  FROM signing_key
 WHERE revoked_at IS NOT NULL;

-- name: feeds()
SELECT name, root, output_region, input_regions, exclude_regions, travelers, period_minutes, active_from, active_thru,
       max_keys, padding_minimum, padding_spread, padding_empty, development, paused,
       ARRAY(SELECT signing_key.name
               FROM feed_signing_key
               JOIN signing_key ON signing_key.id = signing_key_id
              WHERE feed_id = feed.id),
       EXISTS (SELECT FROM batch WHERE feed_id = feed.id)
  FROM feed
 ORDER BY id;

-- name: retention_days()$
SELECT extract(day FROM period)::integer
  FROM retention;

-- name: set_retention(days)!
UPDATE retention
   SET period = make_interval(days => :days);

-- name: insert_health_authority(issuer, audience, name, jwks_uri, stats, certificate_max_life_minutes)!
INSERT INTO health_authority (issuer, audience, name, jwks_uri, stats_enabled, certificate_max_life)
VALUES (:issuer, :audience, :name, :jwks_uri, :stats, make_interval(mins => :certificate_max_life_minutes));

-- name: update_health_authority(audience, name, jwks_uri, stats, certificate_max_life_minutes, issuer)!
UPDATE health_authority
   SET audience = :audience, name = :name, jwks_uri = :jwks_uri, stats_enabled = :stats,
       certificate_max_life = make_interval(mins => :certificate_max_life_minutes)
 WHERE issuer = :issuer;

-- name: insert_health_authority_key(kid, public_key, valid_from, valid_thru, issuer)!
INSERT INTO health_authority_key (health_authority_id, kid, public_key, valid_from, valid_thru)
SELECT id, :kid, :public_key, :valid_from, :valid_thru
  FROM health_authority
 WHERE issuer = :issuer;

-- name: update_health_authority_key(valid_from, valid_thru, issuer, kid)!
-- The public key under a kid never changes.
UPDATE health_authority_key
   SET valid_from = :valid_from, valid_thru = :valid_thru
  FROM health_authority
 WHERE health_authority.id = health_authority_id AND issuer = :issuer AND kid = :kid;

-- name: insert_app(name, regions, bypass_verification, bypass_revision_token)!
INSERT INTO authorised_app (name, regions, bypass_verification, bypass_revision_token)
VALUES (:name, :regions, :bypass_verification, :bypass_revision_token);

-- name: update_app(regions, bypass_verification, bypass_revision_token, name)!
UPDATE authorised_app
   SET regions = :regions, bypass_verification = :bypass_verification, bypass_revision_token = :bypass_revision_token
 WHERE name = :name;

-- name: delete_app(name)!
DELETE FROM authorised_app
 WHERE name = :name;

-- name: withdraw_app_authorities(name, issuers)!
DELETE FROM authorised_app_authority
 USING health_authority
 WHERE health_authority.id = health_authority_id AND app_name = :name AND issuer <> ALL(:issuers::text[]);

-- name: grant_app_authorities(name, issuers)!
INSERT INTO authorised_app_authority (app_name, health_authority_id)
SELECT :name, id
  FROM health_authority
 WHERE issuer = ANY(:issuers::text[])
ON CONFLICT DO NOTHING;

-- name: drop_app_attestation(name, platforms)!
DELETE FROM app_attestation
 WHERE app_name = :name AND platform <> ALL(:platforms::text[]);

-- name: set_app_attestation(name, platform, kind, settings)!
INSERT INTO app_attestation (app_name, platform, kind, settings)
VALUES (:name, :platform, :kind, :settings::jsonb)
ON CONFLICT (app_name, platform) DO UPDATE SET kind = excluded.kind, settings = excluded.settings;

-- name: insert_signing_key(name, key_id, key_version, public_key, active_from, active_thru, purpose)!
INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, active_thru, purpose)
VALUES (:name, :key_id, :key_version, :public_key, :active_from, :active_thru, :purpose);

-- name: update_signing_key(active_from, active_thru, name)!
-- What stands in files that name the key (key_id, key_version, the key itself) never changes, nor what it is for.
UPDATE signing_key
   SET active_from = :active_from, active_thru = :active_thru
 WHERE name = :name;

-- name: insert_feed(name, root, output_region, input_regions, exclude_regions, travelers, period_minutes, active_from, active_thru, max_keys, padding_minimum, padding_spread, padding_empty, development, paused)!
INSERT INTO feed (name, root, output_region, input_regions, exclude_regions, travelers, period_minutes, active_from,
                  active_thru, max_keys, padding_minimum, padding_spread, padding_empty, development, paused)
VALUES (:name, :root, :output_region, :input_regions, :exclude_regions, :travelers, :period_minutes, :active_from,
        :active_thru, :max_keys, :padding_minimum, :padding_spread, :padding_empty, :development, :paused);

-- name: update_feed(output_region, input_regions, exclude_regions, travelers, period_minutes, active_from, active_thru, max_keys, padding_minimum, padding_spread, padding_empty, development, paused, name)!
UPDATE feed
   SET output_region = :output_region, input_regions = :input_regions, exclude_regions = :exclude_regions,
       travelers = :travelers, period_minutes = :period_minutes, active_from = :active_from,
       active_thru = :active_thru, max_keys = :max_keys, padding_minimum = :padding_minimum,
       padding_spread = :padding_spread, padding_empty = :padding_empty, development = :development,
       paused = :paused
 WHERE name = :name;

-- name: drop_feed_signing_keys(name, signing_keys)!
DELETE FROM feed_signing_key
 USING feed, signing_key
 WHERE feed.id = feed_id AND signing_key.id = signing_key_id AND feed.name = :name
   AND signing_key.name <> ALL(:signing_keys::text[]);

-- name: add_feed_signing_keys(name, signing_keys)!
INSERT INTO feed_signing_key (feed_id, signing_key_id)
SELECT feed.id, signing_key.id
  FROM feed, signing_key
 WHERE feed.name = :name AND signing_key.name = ANY(:signing_keys::text[])
ON CONFLICT DO NOTHING;
