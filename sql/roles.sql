-- Run once by a superuser (`keyserver database setup`), before the first migration: one role a process, no more rights
-- than its work. Passwords are set by the command, from the environment; none stands here.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['keyserver_migrate', 'keyserver_api', 'keyserver_pipeline', 'keyserver_rewriter',
                                'keyserver_retention', 'keyserver_auditor', 'keyserver_verification'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', role);
        END IF;
    END LOOP;
END $$;

-- Nothing of ours is changed under a plan's feet: a migration that cannot have its lock soon gives up.
ALTER ROLE keyserver_migrate SET lock_timeout = '4s';

-- W2: an upload that hangs must not hold a window open.
ALTER ROLE keyserver_api SET statement_timeout = '5s';
ALTER ROLE keyserver_api SET lock_timeout = '3s';
ALTER ROLE keyserver_api SET idle_in_transaction_session_timeout = '5s';
-- Its statements are few and look up keys: planning them anew each time would cost more than running them. The one plan
-- is made while tables may still be empty; it must not read the whole of them once they are full.
ALTER ROLE keyserver_api SET plan_cache_mode = 'force_generic_plan';
ALTER ROLE keyserver_api SET enable_seqscan = off;
ALTER ROLE keyserver_api SET jit = off;
-- Each statement needs a snapshot younger than the lock before it, those inside `publish_keys` too.
ALTER ROLE keyserver_api SET default_transaction_isolation = 'read committed';

-- A1: a frozen worker must not hold the audit chain.
ALTER ROLE keyserver_pipeline SET lock_timeout = '10s';
ALTER ROLE keyserver_pipeline SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE keyserver_rewriter SET lock_timeout = '10s';
ALTER ROLE keyserver_rewriter SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE keyserver_retention SET lock_timeout = '10s';
ALTER ROLE keyserver_retention SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE keyserver_pipeline SET tcp_keepalives_idle = 10;
ALTER ROLE keyserver_pipeline SET tcp_keepalives_interval = 5;
ALTER ROLE keyserver_pipeline SET tcp_keepalives_count = 3;
ALTER ROLE keyserver_rewriter SET tcp_keepalives_idle = 10;
ALTER ROLE keyserver_rewriter SET tcp_keepalives_interval = 5;
ALTER ROLE keyserver_rewriter SET tcp_keepalives_count = 3;
ALTER ROLE keyserver_retention SET tcp_keepalives_idle = 10;
ALTER ROLE keyserver_retention SET tcp_keepalives_interval = 5;
ALTER ROLE keyserver_retention SET tcp_keepalives_count = 3;

ALTER ROLE keyserver_auditor SET default_transaction_read_only = on;

ALTER ROLE keyserver_verification SET statement_timeout = '5s';
ALTER ROLE keyserver_verification SET lock_timeout = '3s';
ALTER ROLE keyserver_verification SET idle_in_transaction_session_timeout = '10s';

-- A row that a constraint refuses would otherwise stand in the server's log, key and all.
ALTER ROLE keyserver_migrate SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_api SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_pipeline SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_rewriter SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_retention SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_auditor SET log_error_verbosity = 'terse';
ALTER ROLE keyserver_verification SET log_error_verbosity = 'terse';
