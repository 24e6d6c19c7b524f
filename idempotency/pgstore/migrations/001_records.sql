-- The records of writes, one for each key, and the fences of their owners.
CREATE SEQUENCE {schema}hopbound_idempotency_fence;

CREATE TABLE {schema}hopbound_idempotency (
    id         bytea       PRIMARY KEY,
    owner      text        NOT NULL,
    fence      bigint      NOT NULL,
    fp_schema  text        NOT NULL,
    fp_sum     bytea       NOT NULL,
    done       boolean     NOT NULL DEFAULT false,
    taken_over boolean     NOT NULL DEFAULT false,
    waited     boolean     NOT NULL DEFAULT false,
    -- The end of the lease, or of the retention.
    until      timestamptz NOT NULL,
    -- When the record may be deleted.
    expires    timestamptz NOT NULL,
    outcome    bytea
);

CREATE INDEX hopbound_idempotency_expires ON {schema}hopbound_idempotency (expires);

COMMENT ON TABLE {schema}hopbound_idempotency IS 'Hopbound: outcomes of calls by idempotency key';
