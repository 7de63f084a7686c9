ALTER TABLE deployments ADD COLUMN runs BIGINT NOT NULL DEFAULT 1;
ALTER TABLE deployments ADD COLUMN activity_id BIGINT NOT NULL DEFAULT 0;
CREATE INDEX sums_by_time ON sums (account_id, kind, at);
