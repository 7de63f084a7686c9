-- Whether the account's users may have containers in the host's network; NULL is the setting's default.
ALTER TABLE accounts ADD COLUMN host_network BIGINT;
-- Whether the account's downloads may come from private addresses; NULL is the setting's default.
ALTER TABLE accounts ADD COLUMN private_addresses BIGINT;
-- Signed requests that change something, for as long as their timestamp is good: a signature is bound to the first path that
-- it was used with, and to the command that came of it.
CREATE TABLE signed_requests (
    digest TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    command TEXT NOT NULL DEFAULT '',
    expires_at BIGINT NOT NULL
);
CREATE INDEX signed_requests_by_end ON signed_requests (expires_at);
-- How often the same thing failed in the same way, and when it did last.
ALTER TABLE audit ADD COLUMN count BIGINT NOT NULL DEFAULT 1;
ALTER TABLE audit ADD COLUMN last_at BIGINT NOT NULL DEFAULT 0;
-- Of what a file that is ready was made: the same one is not made again.
ALTER TABLE downloads ADD COLUMN container_id BIGINT NOT NULL DEFAULT 0;
ALTER TABLE downloads ADD COLUMN path TEXT NOT NULL DEFAULT '';
ALTER TABLE downloads ADD COLUMN stamp TEXT NOT NULL DEFAULT '';
CREATE INDEX downloads_of_account ON downloads (account_id, container_id);
-- How many commands of an account are not over.
CREATE INDEX commands_open_of_account ON commands (account_id) WHERE ended_at IS NULL;
