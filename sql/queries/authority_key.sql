-- The public keys of health authorities that publish them themselves (publish.md 4.5).

-- name: publishing()
SELECT id, issuer, jwks_uri
  FROM health_authority
 WHERE jwks_uri IS NOT NULL
 ORDER BY id;

-- name: lock(id)^
-- One import of an authority at a time, and no configuration that changes where its keys are.
SELECT jwks_uri
  FROM health_authority
 WHERE id = :id
   FOR NO KEY UPDATE;

-- name: now()$
SELECT keyserver_now();

-- name: keys(id)
SELECT kid, public_key, valid_from, valid_thru
  FROM health_authority_key
 WHERE health_authority_id = :id
 ORDER BY kid;

-- name: insert(id, kid, public_key, valid_from)!
INSERT INTO health_authority_key (health_authority_id, kid, public_key, valid_from)
VALUES (:id, :kid, :public_key, :valid_from);

-- name: end_key(id, kid, valid_thru)!
UPDATE health_authority_key
   SET valid_thru = :valid_thru
 WHERE health_authority_id = :id AND kid = :kid;
