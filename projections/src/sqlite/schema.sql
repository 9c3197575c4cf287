CREATE TABLE mark (
    -- How far this file has come; no row before the first batch.
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    seq             INTEGER NOT NULL, -- the last event of the ledger that is counted here
    at_ms           INTEGER NOT NULL, -- the instant the state was brought to
    resume          TEXT    NOT NULL, -- from where the ledger goes on reading
    keys_count      INTEGER NOT NULL, -- rows of key
    models_count    INTEGER NOT NULL, -- rows of model
    sessions_count  INTEGER NOT NULL, -- rows of session
    receipts_count  INTEGER NOT NULL, -- receipts in all rows of receipt
    crc             INTEGER NOT NULL  -- CRC-32 of this row
) STRICT;

CREATE TABLE model (
    -- The pools, by name. Rows are never deleted.
    model           INTEGER PRIMARY KEY, -- its number in this file, from 1 on
    name            TEXT    NOT NULL UNIQUE, -- provider/model
    crc             INTEGER NOT NULL  -- CRC-32 of this row
) STRICT;

CREATE TABLE key (
    -- One provider credential each, without its secret. Rows are never deleted.
    key             INTEGER PRIMARY KEY, -- its number in this file, from 1 on
    key_id          TEXT    NOT NULL UNIQUE, -- k_...
    provider        TEXT    NOT NULL, -- in lower case
    label           TEXT,             -- a name for people
    own_weight      REAL    NOT NULL, -- 1 unless the CSV says otherwise; three decimals
    max_holders     INTEGER,          -- live sessions that may hold it; none: as the settings say
    retired         INTEGER NOT NULL, -- 1 when it is in no pool any more
    models          TEXT    NOT NULL, -- JSON: ["provider/model", ...]
    sources         TEXT    NOT NULL, -- JSON: ["cli", "csv@<node id>", ...]
    requests        INTEGER NOT NULL, -- reports since it was first seen
    failures        INTEGER NOT NULL, -- those with an outcome other than success
    input_tokens    INTEGER NOT NULL, -- cached ones included
    output_tokens   INTEGER NOT NULL,
    cached_tokens   INTEGER NOT NULL, -- the part of input_tokens from the provider's cache
    last_used_ms    INTEGER,          -- when it was last given or reported on
    window_minutes  TEXT    NOT NULL, -- JSON: [[minute, tokens], ...]; minute * 60000 is in ms
    cooling         TEXT    NOT NULL, -- JSON: {"provider/model": until ms, ...}
    crc             INTEGER NOT NULL  -- CRC-32 of this row
) STRICT;

CREATE TABLE session (
    -- Live sessions, and ended ones as long as late usage counts for them.
    session         INTEGER PRIMARY KEY, -- its number in this file
    owner           INTEGER NOT NULL, -- the uid that opened it
    id              TEXT    NOT NULL, -- the caller's name for it
    user            INTEGER NOT NULL, -- the caller's number for whom it works
    opened_ms       INTEGER NOT NULL,
    end_ms          INTEGER NOT NULL, -- when it ends unless renewed, or ended
    ended           INTEGER NOT NULL, -- 1 when it has ended
    term            INTEGER NOT NULL, -- grows with each draw and each move between nodes
    base            INTEGER NOT NULL, -- the term at the node that it came from; 0: opened here
    crc             INTEGER NOT NULL, -- CRC-32 of this row and of its allocations
    UNIQUE (owner, id)
) STRICT;

CREATE TABLE allocation (
    -- The keys that sessions hold or held.
    session         INTEGER NOT NULL REFERENCES session,
    place           INTEGER NOT NULL, -- 0 for the first the session got
    key             INTEGER NOT NULL REFERENCES key,
    model           INTEGER NOT NULL REFERENCES model,
    held            INTEGER NOT NULL, -- 0 once it was given back
    requests        INTEGER NOT NULL, -- what the session spent with it
    failures        INTEGER NOT NULL,
    input_tokens    INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    cached_tokens   INTEGER NOT NULL,
    PRIMARY KEY (session, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    -- Counted reports, added up by hour; kept longer than the sessions.
    hour_ms         INTEGER NOT NULL, -- the hour's start
    owner           INTEGER NOT NULL, -- the session's uid
    session         TEXT    NOT NULL, -- the session's id
    user            INTEGER NOT NULL, -- the session's user
    key             INTEGER NOT NULL, -- a number of key; 0: a key that is not there
    model           INTEGER NOT NULL REFERENCES model,
    requests        INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    input_tokens    INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    cached_tokens   INTEGER NOT NULL,
    late            INTEGER NOT NULL, -- reports that came after the end of session or allocation
    PRIMARY KEY (hour_ms, owner, session, user, key, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipt (
    -- Which reports were counted in the last day, so that a repeat counts once.
    part            INTEGER PRIMARY KEY,
    hour            INTEGER NOT NULL, -- hours of the timeline: hour * 3600000 is in ms
    receipts        BLOB    NOT NULL, -- 16 bytes each
    crc             INTEGER NOT NULL  -- CRC-32 of hour and receipts
) STRICT;

CREATE INDEX receipt_by_hour ON receipt (hour);

-- For people: the same with names. Instants are the node's own, near UTC.

CREATE VIEW key_model AS
    SELECT key.key_id, models.value AS model, key.retired
    FROM key, json_each(key.models) AS models;

CREATE VIEW live_session AS
    SELECT owner, id, user,
        datetime(opened_ms / 1000, 'unixepoch') AS opened,
        datetime(end_ms / 1000, 'unixepoch') AS ends,
        (SELECT count(*) FROM allocation
            WHERE allocation.session = session.session AND held) AS keys_held
    FROM session WHERE NOT ended;

CREATE VIEW held AS
    SELECT session.owner, session.id, session.user, key.key_id, key.label, model.name AS model,
        datetime(session.end_ms / 1000, 'unixepoch') AS ends,
        allocation.requests, allocation.input_tokens, allocation.output_tokens
    FROM allocation JOIN session USING (session) JOIN key USING (key) JOIN model USING (model)
    WHERE allocation.held;

CREATE VIEW usage_by_hour AS
    SELECT datetime(usage.hour_ms / 1000, 'unixepoch') AS hour, usage.owner, usage.session,
        usage.user, coalesce(key.key_id, '(unknown)') AS key_id, key.label, model.name AS model,
        usage.requests, usage.failures, usage.input_tokens, usage.output_tokens,
        usage.cached_tokens, usage.late
    FROM usage JOIN model USING (model) LEFT JOIN key ON key.key = usage.key;

CREATE VIEW usage_by_key AS
    SELECT key_id, label, sum(requests) AS requests, sum(failures) AS failures,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_tokens) AS cached_tokens, sum(late) AS late
    FROM usage_by_hour GROUP BY key_id;

CREATE VIEW usage_by_model AS
    SELECT model, sum(requests) AS requests, sum(failures) AS failures,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_tokens) AS cached_tokens, sum(late) AS late
    FROM usage_by_hour GROUP BY model;

CREATE VIEW usage_by_user AS
    SELECT user, sum(requests) AS requests, sum(failures) AS failures,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_tokens) AS cached_tokens, sum(late) AS late
    FROM usage_by_hour GROUP BY user;
