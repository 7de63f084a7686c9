CREATE INDEX tokens_of_key ON tokens (key_id, expires_at) WHERE key_id IS NOT NULL;
CREATE INDEX points_by_time ON points (step, at);
CREATE INDEX points_of_meter ON points (meter_id);
CREATE TABLE hosts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    area TEXT NOT NULL DEFAULT '',
    operator TEXT NOT NULL DEFAULT '',
    bandwidth_mbit BIGINT NOT NULL DEFAULT 0,
    facts TEXT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
ALTER TABLE containers ADD COLUMN host_id BIGINT NOT NULL DEFAULT 1;
CREATE INDEX containers_of_host ON containers (host_id, id);
ALTER TABLE meters ADD COLUMN host_id BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meters ADD COLUMN image_name TEXT NOT NULL DEFAULT '';
ALTER TABLE points ADD COLUMN disk BIGINT NOT NULL DEFAULT 0;
CREATE TABLE sums (
    kind TEXT NOT NULL,
    account_id BIGINT NOT NULL,
    key TEXT NOT NULL,
    at BIGINT NOT NULL,
    containers BIGINT NOT NULL,
    ran BIGINT NOT NULL,
    cpu BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    disk BIGINT NOT NULL,
    rx_bytes BIGINT NOT NULL,
    tx_bytes BIGINT NOT NULL,
    PRIMARY KEY (kind, account_id, key, at)
) WITHOUT ROWID;
CREATE TABLE deployments (
    container_id INTEGER PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
    spec TEXT NOT NULL
);
CREATE TABLE downloads (
    command_uid TEXT PRIMARY KEY,
    account_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    file TEXT NOT NULL,
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL
);
