-- The records of writes, one for each key, and the fences of their owners.
CREATE SEQUENCE {schema}hopbound_idempotency_fence;

CREATE TABLE {schema}hopbound_idempotency (
    id         bytea       PRIMARY KEY,
    -- Empty in a record that was released.
    owner      text        NOT NULL,
    fence      bigint      NOT NULL,
    fp_schema  text        NOT NULL,
    fp_sum     bytea       NOT NULL,
    done       boolean     NOT NULL DEFAULT false,
    -- Whether a run may have had an effect, in a record that is not done.
    effect     boolean     NOT NULL DEFAULT false,
    waited     boolean     NOT NULL DEFAULT false,
    -- The end of the lease, or of the retention.
    until      timestamptz NOT NULL,
    -- For how long the record is kept after that while there is no outcome.
    keep       interval    NOT NULL DEFAULT interval '0',
    -- When to see whether the record may be deleted. It is guessed when the record
    -- is made, so that renewals and the outcome change no column that is indexed.
    expires    timestamptz NOT NULL,
    outcome    bytea,
    -- What a run that is not done has stored of its progress.
    checkpoint bytea,
    -- For operators: the full method, a hash of the key, how many runs were claimed, and
    -- when the first was.
    method     text        NOT NULL DEFAULT '',
    key_hash   text        NOT NULL DEFAULT '',
    attempts   integer     NOT NULL DEFAULT 1,
    created    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

CREATE INDEX hopbound_idempotency_expires ON {schema}hopbound_idempotency (expires);

COMMENT ON TABLE {schema}hopbound_idempotency IS 'Hopbound: outcomes of calls by idempotency key';

-- Claims a record that is there, if its retention or its lease has ended or it was released.
-- If a run may have had an effect, it does so only for the same request. Otherwise it returns
-- the record, or nothing if that was gone or changed when it was looked at. It waits for
-- p_wait, in milliseconds, for a transaction that holds the record, or p_lock if there is no
-- record, and leaves lock_timeout set to that. Times are in microseconds, and by
-- clock_timestamp(), since now() stands still.
CREATE FUNCTION {schema}hopbound_idempotency_claim(
    p_id bytea, p_owner text, p_schema text, p_sum bytea, p_lease double precision, p_expires double precision,
    p_lock bigint, p_method text, p_key_hash text, p_wait text,
    OUT o_claimed boolean, OUT o_taken_over boolean, OUT o_fence bigint, OUT o_owner text,
    OUT o_schema text, OUT o_sum bytea, OUT o_done boolean, OUT o_live boolean, OUT o_effect boolean, OUT o_outcome bytea,
    OUT o_checkpoint bytea
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    o_claimed := false;
    PERFORM set_config('lock_timeout', p_wait, true);
    SELECT r.fence, r.owner, r.fp_schema, r.fp_sum, r.done, r.until > clock_timestamp(), r.effect, r.outcome, r.checkpoint
    INTO o_fence, o_owner, o_schema, o_sum, o_done, o_live, o_effect, o_outcome, o_checkpoint
    FROM {schema}hopbound_idempotency AS r WHERE r.id = p_id;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock_shared(p_lock);
    ELSIF NOT o_live AND (o_done OR o_owner = '' AND NOT o_effect OR o_owner <> p_owner AND (o_schema = '' OR o_schema <> p_schema OR o_sum = p_sum)) THEN
        o_taken_over := NOT o_done AND (o_owner <> '' OR o_effect);
        UPDATE {schema}hopbound_idempotency AS r SET owner = p_owner, fence = nextval('{schema}hopbound_idempotency_fence'),
            fp_schema = p_schema, fp_sum = p_sum, done = false, waited = false, outcome = NULL, effect = o_taken_over,
            method = p_method, key_hash = p_key_hash,
            checkpoint = CASE WHEN o_taken_over THEN r.checkpoint END,
            attempts = CASE WHEN o_taken_over THEN r.attempts + 1 ELSE 1 END,
            created = CASE WHEN o_taken_over THEN r.created ELSE clock_timestamp() END,
            until = clock_timestamp() + p_lease * interval '1 microsecond',
            keep = (p_expires - p_lease) * interval '1 microsecond',
            expires = clock_timestamp() + p_expires * interval '1 microsecond'
        WHERE r.id = p_id AND r.fence = o_fence AND r.done = o_done AND r.until <= clock_timestamp()
        RETURNING true, r.fence, r.checkpoint INTO o_claimed, o_fence, o_checkpoint;
        IF NOT FOUND THEN -- another was faster, or its owner was: look again
            o_claimed := false;
            o_owner := NULL;
        END IF;
    END IF;
END $$;
