-- A batch's record is told after each release: its events are found without reading all of history.

CREATE INDEX audit_event_at ON audit_event (at);
