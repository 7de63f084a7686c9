-- Specifications that a group has had, ten at most. `spec` is the core's JSON with one replica, because scaling makes no revision.
CREATE TABLE group_revisions (
    group_id BIGINT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    revision BIGINT NOT NULL,
    spec TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, revision)
);
-- Requests have other digests from now on, and answers have their status.
DELETE FROM idempotency;
