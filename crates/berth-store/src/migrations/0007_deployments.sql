ALTER TABLE deployments ADD COLUMN runs BIGINT NOT NULL DEFAULT 1;
CREATE INDEX containers_replacing ON containers (replaces) WHERE replaces IS NOT NULL;
CREATE INDEX sums_by_time ON sums (account_id, kind, at);
