-- The verification service: realms and API keys, codes, tokens, and how often somebody asked.

-- name: api_key(key_mac)^
SELECT keyserver_now(), verification_api_key.id, verification_api_key.kind, realm.id, realm.name, realm.code_digits,
       realm.code_lifetime, realm.long_code_length, realm.long_code_lifetime, realm.test_types, realm.date_required,
       realm.certificate_issuer, realm.certificate_audience, realm.certificate_kid, realm.certificate_lifetime,
       realm.certificate_key, realm.token_key, realm.user_report, realm.user_report_webhook, realm.user_report_again,
       realm.requests_per_minute, realm.wrong_codes_per_hour, realm.codes_per_day
  FROM verification_api_key
  JOIN verification_realm AS realm ON realm.id = verification_api_key.realm_id
 WHERE verification_api_key.key_mac = :key_mac AND verification_api_key.revoked_at IS NULL;

-- name: signing_keys()
SELECT name, certificate_kid, certificate_key FROM verification_realm ORDER BY name;

-- name: count(realm_id, what, seconds, by)^
-- Fixed windows. A count that is given back after its window ended is nothing any more.
INSERT INTO verification_rate AS rate (realm_id, what, starts_at, count)
VALUES (:realm_id, :what, date_bin(make_interval(secs => :seconds), keyserver_now(), timestamptz 'epoch'),
        greatest(:by, 0))
ON CONFLICT (realm_id, what) DO UPDATE
   SET count = CASE WHEN rate.starts_at = EXCLUDED.starts_at THEN greatest(rate.count + :by, 0) ELSE EXCLUDED.count END,
       starts_at = EXCLUDED.starts_at
RETURNING count, starts_at + make_interval(secs => :seconds), keyserver_now();

-- name: forget()!
-- What nobody can ask for any more: codes two weeks after their end, tokens a day, numbers that may report again.
WITH codes AS (DELETE FROM verification_code WHERE long_expires_at < keyserver_now() - interval '14 days'),
     tokens AS (DELETE FROM verification_token WHERE expires_at < keyserver_now() - interval '1 day')
DELETE FROM verification_user_report WHERE until < keyserver_now();

-- name: add_code(realm_id, uuid, short_mac, long_mac, nonce_mac, test_type, symptom_date, test_date, expires_at, long_expires_at)$
-- Nothing comes back when the uuid or one of the codes is there already.
INSERT INTO verification_code (realm_id, uuid, short_mac, long_mac, nonce_mac, test_type, symptom_date, test_date,
                               expires_at, long_expires_at)
VALUES (:realm_id, :uuid, :short_mac, :long_mac, :nonce_mac, :test_type, :symptom_date, :test_date, :expires_at,
        :long_expires_at)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: code_status(realm_id, uuid)^
SELECT claimed_at IS NOT NULL, expires_at, long_expires_at
  FROM verification_code WHERE realm_id = :realm_id AND uuid = :uuid;

-- name: expire_code(realm_id, uuid)^
UPDATE verification_code
   SET expires_at = least(expires_at, keyserver_now()), long_expires_at = least(long_expires_at, keyserver_now())
 WHERE realm_id = :realm_id AND uuid = :uuid
RETURNING claimed_at IS NOT NULL, expires_at, long_expires_at;

-- name: remove_code(realm_id, uuid)!
DELETE FROM verification_code WHERE realm_id = :realm_id AND uuid = :uuid AND claimed_at IS NULL;

-- name: lock_code(realm_id, short_mac, long_mac)^
SELECT uuid, test_type, symptom_date, test_date, CASE WHEN short_mac = :short_mac THEN expires_at ELSE long_expires_at END,
       attempts, claimed_at IS NOT NULL, nonce_mac
  FROM verification_code
 WHERE realm_id = :realm_id AND (short_mac = :short_mac OR long_mac = :long_mac)
 LIMIT 1
   FOR UPDATE;

-- name: refuse_code(realm_id, uuid)!
UPDATE verification_code SET attempts = attempts + 1 WHERE realm_id = :realm_id AND uuid = :uuid;

-- name: claim_code(realm_id, uuid)!
UPDATE verification_code SET claimed_at = keyserver_now() WHERE realm_id = :realm_id AND uuid = :uuid;

-- name: add_token(token_mac, realm_id, test_type, symptom_date, test_date, expires_at)!
INSERT INTO verification_token (token_mac, realm_id, test_type, symptom_date, test_date, expires_at)
VALUES (:token_mac, :realm_id, :test_type, :symptom_date, :test_date, :expires_at);

-- name: lock_token(realm_id, token_mac)^
SELECT test_type, symptom_date, test_date, expires_at, used_at IS NOT NULL
  FROM verification_token
 WHERE realm_id = :realm_id AND token_mac = :token_mac
   FOR UPDATE;

-- name: use_token(token_mac)!
UPDATE verification_token SET used_at = keyserver_now() WHERE token_mac = :token_mac;

-- name: reported(phone_mac)$
SELECT EXISTS (SELECT FROM verification_user_report WHERE phone_mac = :phone_mac AND until > keyserver_now());

-- name: remember_report(realm_id, phone_mac, until)!
INSERT INTO verification_user_report (realm_id, phone_mac, until) VALUES (:realm_id, :phone_mac, :until)
ON CONFLICT (phone_mac) DO UPDATE SET until = EXCLUDED.until;

-- name: add_realm(name, issuer, audience, kid, certificate_key, token_key, date_required, user_report, webhook)$
INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid, certificate_key,
                                token_key, date_required, user_report, user_report_webhook)
VALUES (:name, :issuer, :audience, :kid, :certificate_key, :token_key, :date_required, :user_report, :webhook)
ON CONFLICT (name) DO NOTHING
RETURNING id;

-- name: realm_id(name)$
SELECT id FROM verification_realm WHERE name = :name;

-- name: lock_realm(name)^
SELECT id, name, code_digits, code_lifetime, long_code_length, long_code_lifetime, test_types, date_required,
       certificate_issuer, certificate_audience, certificate_kid, certificate_lifetime, certificate_key, token_key,
       user_report, user_report_webhook, user_report_again, requests_per_minute, wrong_codes_per_hour, codes_per_day
  FROM verification_realm
 WHERE name = :name
   FOR UPDATE;

-- name: update_realm(id, code_digits, code_lifetime, long_code_length, long_code_lifetime, test_types, date_required, certificate_lifetime, user_report, user_report_webhook, user_report_again, requests_per_minute, wrong_codes_per_hour, codes_per_day)!
UPDATE verification_realm
   SET code_digits = :code_digits, code_lifetime = :code_lifetime, long_code_length = :long_code_length,
       long_code_lifetime = :long_code_lifetime, test_types = :test_types, date_required = :date_required,
       certificate_lifetime = :certificate_lifetime, user_report = :user_report,
       user_report_webhook = :user_report_webhook, user_report_again = :user_report_again,
       requests_per_minute = :requests_per_minute, wrong_codes_per_hour = :wrong_codes_per_hour,
       codes_per_day = :codes_per_day
 WHERE id = :id;

-- name: add_api_key(realm_id, name, kind, key_mac)$
INSERT INTO verification_api_key (realm_id, name, kind, key_mac, created_at)
VALUES (:realm_id, :name, :kind, :key_mac, keyserver_now())
ON CONFLICT (realm_id, name) DO NOTHING
RETURNING id;

-- name: revoke_api_key(realm_id, name)$
UPDATE verification_api_key SET revoked_at = keyserver_now()
 WHERE realm_id = :realm_id AND name = :name AND revoked_at IS NULL
RETURNING id;
