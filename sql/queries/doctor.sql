-- How the server and a role's session are set, for `keyserver doctor`.

-- name: session()^
SELECT current_user::text, rolsuper, current_setting('statement_timeout'), current_setting('lock_timeout'),
       current_setting('idle_in_transaction_session_timeout'), current_setting('synchronous_commit')
  FROM pg_roles
 WHERE rolname = current_user;

-- name: server()^
-- `wal_keep_size` and `max_slot_wal_keep_size` in MB, -1 for no bound; the times of log_* in ms, -1 for never.
SELECT current_setting('server_version_num')::integer,
       current_setting('fsync')::boolean,
       current_setting('full_page_writes')::boolean,
       current_setting('autovacuum')::boolean,
       current_setting('log_statement'),
       (SELECT setting::integer FROM pg_settings WHERE name = 'log_min_duration_statement'),
       current_setting('archive_mode'),
       (SELECT setting::integer FROM pg_settings WHERE name = 'wal_keep_size'),
       (SELECT setting::integer FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       (SELECT count(*)::integer FROM pg_replication_slots),
       (SELECT count(*)::integer FROM pg_replication_slots WHERE NOT active);
