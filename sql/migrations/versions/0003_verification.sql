-- The verification service (publish.md 4.6 to 4.9), for authorities that have none of their own. What somebody could use
-- (API keys, codes, tokens, nonces, telephone numbers) is kept as an HMAC under a secret that the database never sees.

GRANT USAGE ON SCHEMA public TO keyserver_verification;

-- An authority's settings.
CREATE TABLE verification_realm (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                 text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,99}$'),
    code_digits          smallint NOT NULL DEFAULT 8 CHECK (code_digits BETWEEN 6 AND 16),
    code_lifetime        interval NOT NULL DEFAULT interval '15 minutes'
        CHECK (code_lifetime BETWEEN interval '1 minute' AND interval '1 hour'),
    long_code_length     smallint NOT NULL DEFAULT 16 CHECK (long_code_length BETWEEN 12 AND 64),
    long_code_lifetime   interval NOT NULL DEFAULT interval '24 hours'
        CHECK (long_code_lifetime BETWEEN interval '1 minute' AND interval '24 hours'),
    test_types           text[] NOT NULL DEFAULT '{confirmed,likely,negative}'
        CHECK (cardinality(test_types) > 0 AND test_types <@ '{confirmed,likely,negative}'),
    date_required        boolean NOT NULL DEFAULT true,
    certificate_issuer   text NOT NULL CHECK (certificate_issuer <> ''),
    certificate_audience text NOT NULL CHECK (certificate_audience <> ''),
    certificate_kid      text NOT NULL CHECK (certificate_kid <> ''),
    certificate_lifetime interval NOT NULL DEFAULT interval '15 minutes'
        CHECK (certificate_lifetime BETWEEN interval '1 minute' AND interval '1 hour'),
    certificate_key      text NOT NULL,   -- what the signer knows the keys by
    token_key            text NOT NULL CHECK (token_key <> certificate_key),
    user_report          boolean NOT NULL DEFAULT false,
    user_report_webhook  text CHECK (user_report_webhook LIKE 'https://%'),
    user_report_again    interval NOT NULL DEFAULT interval '90 days',   -- before that a number gets no other code
    requests_per_minute  integer NOT NULL DEFAULT 600 CHECK (requests_per_minute > 0),   -- of one API key
    wrong_codes_per_hour integer NOT NULL DEFAULT 600 CHECK (wrong_codes_per_hour > 0),
    codes_per_day        integer NOT NULL DEFAULT 10000 CHECK (codes_per_day > 0),
    CHECK (NOT user_report OR user_report_webhook IS NOT NULL)
);

CREATE TABLE verification_api_key (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    realm_id   bigint NOT NULL REFERENCES verification_realm,
    name       text NOT NULL CHECK (name <> ''),
    kind       text NOT NULL CHECK (kind IN ('admin', 'device')),
    key_mac    bytea NOT NULL UNIQUE CHECK (octet_length(key_mac) = 32),
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    UNIQUE (realm_id, name)
);

CREATE TABLE verification_code (
    realm_id        bigint NOT NULL REFERENCES verification_realm,
    uuid            uuid NOT NULL,
    short_mac       bytea NOT NULL UNIQUE CHECK (octet_length(short_mac) = 32),
    long_mac        bytea NOT NULL UNIQUE CHECK (octet_length(long_mac) = 32),
    nonce_mac       bytea CHECK (octet_length(nonce_mac) = 32),   -- of the phone that reported itself
    test_type       text NOT NULL CHECK (test_type IN ('confirmed', 'likely', 'negative', 'user-report')),
    symptom_date    date,
    test_date       date,
    expires_at      timestamptz NOT NULL,
    long_expires_at timestamptz NOT NULL,
    attempts        smallint NOT NULL DEFAULT 0,
    claimed_at      timestamptz,
    PRIMARY KEY (realm_id, uuid),
    CHECK ((nonce_mac IS NOT NULL) = (test_type = 'user-report'))
);
CREATE INDEX verification_code_long_expires_at ON verification_code (long_expires_at);

CREATE TABLE verification_token (
    token_mac    bytea PRIMARY KEY CHECK (octet_length(token_mac) = 32),
    realm_id     bigint NOT NULL REFERENCES verification_realm,
    test_type    text NOT NULL CHECK (test_type IN ('confirmed', 'likely', 'negative', 'user-report')),
    symptom_date date,
    test_date    date,
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz
);
CREATE INDEX verification_token_expires_at ON verification_token (expires_at);

-- Which telephone numbers were given a code for a self report.
CREATE TABLE verification_user_report (
    phone_mac bytea PRIMARY KEY CHECK (octet_length(phone_mac) = 32),
    realm_id  bigint NOT NULL REFERENCES verification_realm,
    until     timestamptz NOT NULL
);
CREATE INDEX verification_user_report_until ON verification_user_report (until);

-- How often in the present window, shared by all workers: requests of an API key, wrong codes, issued codes.
CREATE TABLE verification_rate (
    realm_id  bigint NOT NULL REFERENCES verification_realm,
    what      text NOT NULL,
    starts_at timestamptz NOT NULL,
    count     integer NOT NULL CHECK (count >= 0),
    PRIMARY KEY (realm_id, what)
);

------------------------------------------------------------------------------------------------------------ grants

GRANT SELECT ON verification_realm, verification_api_key TO keyserver_verification;
GRANT SELECT ON release_clock, alembic_version TO keyserver_verification;   -- readiness
GRANT SELECT, INSERT, DELETE, UPDATE (attempts, claimed_at, expires_at, long_expires_at) ON verification_code
    TO keyserver_verification;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON verification_token TO keyserver_verification;
GRANT SELECT, INSERT, DELETE, UPDATE (until) ON verification_user_report TO keyserver_verification;
GRANT SELECT, INSERT, UPDATE (starts_at, count) ON verification_rate TO keyserver_verification;

-- Realms and API keys are an operator's, and audited: the command line is the pipeline's role. It can use none of them.
GRANT INSERT, SELECT (id, name) ON verification_realm TO keyserver_pipeline;
GRANT INSERT, SELECT (id, realm_id, name, kind, created_at, revoked_at), UPDATE (revoked_at) ON verification_api_key
    TO keyserver_pipeline;
GRANT SELECT ON verification_realm TO keyserver_auditor;
GRANT SELECT (id, realm_id, name, kind, created_at, revoked_at) ON verification_api_key TO keyserver_auditor;
