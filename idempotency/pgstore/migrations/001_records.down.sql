DROP FUNCTION {schema}hopbound_idempotency_claim;
DROP TABLE {schema}hopbound_idempotency;
DROP SEQUENCE {schema}hopbound_idempotency_fence;
