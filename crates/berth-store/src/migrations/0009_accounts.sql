-- Since when an account's credentials are refused; NULL for one that is in use.
ALTER TABLE accounts ADD COLUMN disabled_at BIGINT;
-- Since when it is gone; what it used is still billed. Its name can be given again.
ALTER TABLE accounts ADD COLUMN removed_at BIGINT;
-- What its running containers may have together, and its data on disk; NULL is no bound.
ALTER TABLE accounts ADD COLUMN container_quota BIGINT;
ALTER TABLE accounts ADD COLUMN memory_quota BIGINT;
ALTER TABLE accounts ADD COLUMN cpu_milli_quota BIGINT;
ALTER TABLE accounts ADD COLUMN bandwidth_quota BIGINT;
ALTER TABLE accounts ADD COLUMN disk_quota BIGINT;
