-- Attestations: a challenge is used once (E3).

-- name: use(mac, period_end)!
-- One row the first time, none ever after. The end of the challenge's period is kept, not the moment of the upload.
INSERT INTO attestation_seen (mac, seen_at)
VALUES (:mac, :period_end)
    ON CONFLICT (mac) DO NOTHING;
