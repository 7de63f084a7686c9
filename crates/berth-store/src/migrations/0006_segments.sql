CREATE TABLE rounds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    until BIGINT NOT NULL,
    points BLOB NOT NULL
);
CREATE INDEX rounds_by_end ON rounds (until);
CREATE TABLE segments (
    step BIGINT NOT NULL,
    meter_id BIGINT NOT NULL,
    until BIGINT NOT NULL,
    points BLOB NOT NULL,
    PRIMARY KEY (step, meter_id, until)
) WITHOUT ROWID;
