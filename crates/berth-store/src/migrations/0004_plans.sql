ALTER TABLE tokens ADD COLUMN key_id BIGINT;
CREATE TABLE ssh_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    public TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    private TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX ssh_keys_of_account ON ssh_keys (account_id, id);
CREATE TABLE plans (
    container_id INTEGER PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
    plan TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX commands_of_target ON commands (kind, target, id);
CREATE TABLE meters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL,
    container_id BIGINT NOT NULL UNIQUE,
    uid TEXT NOT NULL,
    name TEXT NOT NULL,
    image TEXT NOT NULL,
    plan TEXT,
    live BIGINT NOT NULL,
    last TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX meters_of_account ON meters (account_id, id);
CREATE INDEX meters_live ON meters (container_id) WHERE live <> 0;
CREATE TABLE points (
    step BIGINT NOT NULL,
    meter_id BIGINT NOT NULL REFERENCES meters (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    since BIGINT NOT NULL,
    ran BIGINT NOT NULL,
    cpu BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    block_read BIGINT NOT NULL,
    block_write BIGINT NOT NULL,
    rx_bytes BIGINT NOT NULL,
    rx_packets BIGINT NOT NULL,
    tx_bytes BIGINT NOT NULL,
    tx_packets BIGINT NOT NULL,
    PRIMARY KEY (step, meter_id, at)
) WITHOUT ROWID;
