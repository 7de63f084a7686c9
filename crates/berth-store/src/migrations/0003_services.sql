CREATE TABLE services (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (account_id, name)
);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    service_id BIGINT NOT NULL REFERENCES services (id),
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    wanted TEXT NOT NULL,
    version BIGINT NOT NULL,
    ports TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (service_id, name)
);
ALTER TABLE containers ADD COLUMN group_id BIGINT;
ALTER TABLE containers ADD COLUMN shape TEXT NOT NULL DEFAULT '';
ALTER TABLE containers ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE containers ADD COLUMN replaces BIGINT;
CREATE INDEX containers_of_group ON containers (group_id, id) WHERE group_id IS NOT NULL;
CREATE INDEX containers_of_account ON containers (account_id, id);
CREATE TABLE packages (
    group_id BIGINT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    size BIGINT NOT NULL,
    address TEXT NOT NULL,
    command_id BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    proven BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, version)
);
CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    account_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    target BIGINT NOT NULL,
    target_name TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    result TEXT NOT NULL,
    message TEXT NOT NULL,
    cancelled TEXT NOT NULL,
    deadline BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX commands_open ON commands (kind, target, id) WHERE ended_at IS NULL;
CREATE INDEX commands_of_account ON commands (account_id, id);
CREATE TABLE activities (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command_id BIGINT NOT NULL REFERENCES commands (id) ON DELETE CASCADE,
    stage BIGINT NOT NULL,
    step TEXT NOT NULL,
    name TEXT NOT NULL,
    container_id BIGINT NOT NULL,
    status TEXT NOT NULL,
    result TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX activities_of_command ON activities (command_id, id);
CREATE TABLE access_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id BIGINT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    access_key TEXT NOT NULL UNIQUE,
    secret TEXT NOT NULL,
    old_secret TEXT,
    old_until BIGINT NOT NULL DEFAULT 0,
    role TEXT NOT NULL,
    bounds TEXT NOT NULL,
    disabled BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at BIGINT,
    used_from TEXT NOT NULL DEFAULT ''
);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    account_id BIGINT NOT NULL,
    who TEXT NOT NULL,
    source TEXT NOT NULL,
    dialect TEXT NOT NULL,
    action TEXT NOT NULL,
    result TEXT NOT NULL,
    message TEXT NOT NULL,
    request_id TEXT NOT NULL
);
CREATE INDEX audit_of_account ON audit (account_id, id);
