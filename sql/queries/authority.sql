-- Who may upload: authorised apps, the health authorities they accept, and these authorities' public keys.

-- name: upload_configuration()
-- A row an (app, authority, key); the later columns are null where an app has no authority or an authority no key.
SELECT authorised_app.name, authorised_app.regions, authorised_app.bypass_verification,
       authorised_app.bypass_revision_token, attestations.by_platform, health_authority.id, health_authority.issuer,
       health_authority.audience, health_authority.certificate_max_life, health_authority_key.kid,
       health_authority_key.public_key, health_authority_key.valid_from, health_authority_key.valid_thru
  FROM authorised_app
  LEFT JOIN authorised_app_authority ON authorised_app_authority.app_name = authorised_app.name
  LEFT JOIN health_authority ON health_authority.id = authorised_app_authority.health_authority_id
  LEFT JOIN health_authority_key ON health_authority_key.health_authority_id = health_authority.id
 CROSS JOIN LATERAL (
       SELECT coalesce(jsonb_object_agg(platform, jsonb_build_object('kind', kind, 'settings', settings)), '{}')
         FROM app_attestation
        WHERE app_attestation.app_name = authorised_app.name) AS attestations (by_platform)
 ORDER BY authorised_app.name, health_authority.id, health_authority_key.kid;
