-- The whole publish contract: revision tokens, attestation, statistics, what an authority and an app may (publish.md).

---------------------------------------------------------------------------------------------- authorities and apps

ALTER TABLE health_authority
    ADD COLUMN jwks_uri             text CHECK (jwks_uri LIKE 'https://%'),
    ADD COLUMN stats_enabled        boolean NOT NULL DEFAULT true,
    ADD COLUMN certificate_max_life interval NOT NULL DEFAULT interval '1 hour'
        CHECK (certificate_max_life BETWEEN interval '1 minute' AND interval '7 days');

-- publish.md 2.9: for development and migration; an app that bypasses is said so by the configuration's plan.
ALTER TABLE authorised_app
    ADD COLUMN bypass_verification   boolean NOT NULL DEFAULT false,
    ADD COLUMN bypass_revision_token boolean NOT NULL DEFAULT false;

-- How an app's uploads from a platform prove that they come from the app. No row: they need not.
CREATE TABLE app_attestation (
    app_name text NOT NULL REFERENCES authorised_app ON DELETE CASCADE,
    platform text NOT NULL CHECK (platform IN ('android', 'ios')),
    kind     text NOT NULL CHECK (kind IN ('play-integrity', 'app-attest')),
    settings jsonb NOT NULL,   -- what the kind asks for: packages, digests, team and bundle, names of secrets
    PRIMARY KEY (app_name, platform)
);

-- E3: against replay only an HMAC under a short-lived secret is kept, which nothing can be linked to once that is gone.
CREATE TABLE attestation_seen (
    mac     bytea PRIMARY KEY CHECK (octet_length(mac) = 32),
    seen_at timestamptz NOT NULL
);

----------------------------------------------------------------------------------------------------- revision keys

-- publish.md 3.2: the newest one that is allowed encrypts, every one that is allowed decrypts. Destroying forgets the
-- key itself and keeps the row. The key is wrapped by the `keywrap` port, bound to `aad`.
CREATE TABLE revision_key (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aad          bytea CHECK (octet_length(aad) = 16),
    wrapped_key  bytea,
    created_at   timestamptz NOT NULL,
    allowed      boolean NOT NULL DEFAULT true,
    destroyed_at timestamptz,
    CHECK ((wrapped_key IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK ((aad IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (destroyed_at IS NULL OR NOT allowed)
);

-------------------------------------------------------------------------------------------------------- statistics

-- P1: counted in the publish statement, in one of several rows an hour, so that uploads do not queue for one.
CREATE TABLE upload_stats (
    health_authority_id bigint NOT NULL REFERENCES health_authority,
    hour                timestamptz NOT NULL,
    shard               smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    publish             bigint[] NOT NULL CHECK (cardinality(publish) = 3),          -- unknown, android, ios
    teks                bigint NOT NULL,
    revisions           bigint NOT NULL,
    oldest_tek_days     bigint[] NOT NULL CHECK (cardinality(oldest_tek_days) = 16),
    onset_age_days      bigint[] NOT NULL CHECK (cardinality(onset_age_days) = 30),
    missing_onset       bigint NOT NULL,
    PRIMARY KEY (health_authority_id, hour, shard)
);

-- P1: what padding will be drawn from. Joint only over report type, number of keys and age of the oldest.
CREATE TABLE profile (
    day         date NOT NULL,
    report_type report_type NOT NULL,
    keys        smallint NOT NULL CHECK (keys BETWEEN 1 AND 30),
    oldest_days smallint NOT NULL CHECK (oldest_days BETWEEN 0 AND 15),
    shard       smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    uploads     bigint NOT NULL,
    PRIMARY KEY (day, report_type, keys, oldest_days, shard)
);
CREATE TABLE profile_marginal (
    day   date NOT NULL,
    what  text NOT NULL CHECK (what IN ('onset_days', 'transmission_risk', 'interval_count', 'traveler')),
    value smallint NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    count bigint NOT NULL,
    PRIMARY KEY (day, what, value, shard)
);

------------------------------------------------------------------------------------------------------------ grants

GRANT SELECT ON app_attestation, revision_key TO keyserver_api;
GRANT SELECT ON alembic_version TO keyserver_api;   -- readiness
GRANT SELECT, INSERT, UPDATE ON upload_stats, profile, profile_marginal TO keyserver_api;
GRANT SELECT, INSERT ON attestation_seen TO keyserver_api;

GRANT SELECT ON app_attestation, attestation_seen, revision_key, upload_stats, profile, profile_marginal
    TO keyserver_pipeline;
GRANT UPDATE (jwks_uri, stats_enabled, certificate_max_life) ON health_authority TO keyserver_pipeline;
GRANT UPDATE (bypass_verification, bypass_revision_token) ON authorised_app TO keyserver_pipeline;
GRANT INSERT, UPDATE, DELETE ON app_attestation TO keyserver_pipeline;
GRANT INSERT, UPDATE (aad, wrapped_key, allowed, destroyed_at) ON revision_key TO keyserver_pipeline;
GRANT DELETE ON attestation_seen TO keyserver_pipeline;

GRANT SELECT ON app_attestation, upload_stats, profile, profile_marginal TO keyserver_auditor;
GRANT SELECT (id, created_at, allowed, destroyed_at) ON revision_key TO keyserver_auditor;
