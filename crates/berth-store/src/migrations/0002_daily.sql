CREATE TABLE volumes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    folder TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (account_id, name)
);
CREATE TABLE registry_logins (
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    registry TEXT NOT NULL,
    username TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, registry)
);
CREATE TABLE server (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
ALTER TABLE images ADD COLUMN shared BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN origin TEXT NOT NULL DEFAULT 'loaded';
ALTER TABLE images ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN image_quota BIGINT;
