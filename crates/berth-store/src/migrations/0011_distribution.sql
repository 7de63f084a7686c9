-- What clients push by the OCI distribution API: manifests as they came, their tags, and the blobs that a repository has. A manifest that the server made of an
-- image of its own has `made`, as have its blobs. `blobs` and `manifests` are the digests that a manifest names, separated by spaces. `image` is the digest of the image (its configuration's) that a manifest describes, if it describes one.
CREATE TABLE manifests (
    account_id BIGINT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    media_type TEXT NOT NULL,
    content BLOB NOT NULL,
    blobs TEXT NOT NULL,
    manifests TEXT NOT NULL,
    subject TEXT,
    image TEXT,
    made BOOLEAN NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, repository, digest)
);
CREATE INDEX manifests_subject ON manifests (account_id, repository, subject);
CREATE TABLE manifest_tags (
    account_id BIGINT NOT NULL,
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (account_id, repository, tag)
);
CREATE TABLE blobs (
    account_id BIGINT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    made BOOLEAN NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, repository, digest)
);
CREATE INDEX blobs_digest ON blobs (digest);
