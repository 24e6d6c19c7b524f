package pgstore

import "strings"

// statements are the SQL of the store, with the names of its tables.
type statements struct {
	insert, claim, read, complete, extend, save, release, look, left, expire string // of leases, and of both
	tryLock, lock, insertDone, updateDone                                    string // of transactions
	find, list, free, forget                                                 string // of operators
}

func newStatements(prefix string) statements {
	with := func(sql string) string {
		table := prefix + "hopbound_idempotency"
		return strings.NewReplacer("{t}", table, "{table}", "('"+table+"'::regclass::oid::bigint << 32)", "{µs}", "interval '1 microsecond'", "{released}", "interval '1 minute'").Replace(sql)
	}
	return statements{
		// The claim of a new record, as almost all claims are. It inserts nothing if a transaction
		// holds the lock of the record, and may insert it.
		insert: with(`INSERT INTO {t} (id, owner, fence, fp_schema, fp_sum, until, keep, expires, method, key_hash)
SELECT $1, $2, nextval('{t}_fence'), $3, $4, clock_timestamp() + $5::float8 * {µs}, ($6::float8 - $5::float8) * {µs},
clock_timestamp() + $6::float8 * {µs}, $8, $9
WHERE pg_try_advisory_xact_lock_shared($7 # {table}) ON CONFLICT (id) DO NOTHING RETURNING fence`),
		claim: with(`SELECT o_claimed, o_taken_over, o_fence, o_owner, o_schema, o_sum, o_done, o_live, o_effect, o_outcome, o_checkpoint
FROM {t}_claim($1, $2, $3, $4, $5, $6, $7 # {table}, $8, $9, $10)`),
		read: with(`SELECT fence, owner, fp_schema, fp_sum, done, until > clock_timestamp(), effect, outcome, checkpoint FROM {t} WHERE id = $1`),
		complete: with(`UPDATE {t} SET done = true, effect = false, outcome = $4, checkpoint = NULL, until = clock_timestamp() + $5::float8 * {µs}, keep = interval '0',
expires = CASE WHEN $5::float8 < $8::float8 THEN clock_timestamp() + $5::float8 * {µs} ELSE expires END
WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done RETURNING CASE WHEN waited THEN pg_notify($6, $7)::text END`),
		extend: with(`UPDATE {t} SET until = greatest(until, clock_timestamp() + $4::float8 * {µs})
WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done`),
		save: with(`UPDATE {t} SET checkpoint = $4 WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done`),
		// A record that was released without an effect stays for a minute. If it were deleted, a claim
		// that has drawn a lower fence before could still insert it.
		release: with(`UPDATE {t} SET owner = '', effect = effect OR $6, until = clock_timestamp(),
keep = CASE WHEN effect OR $6 THEN greatest(keep, $7::float8 * {µs}) ELSE {released} END,
expires = CASE WHEN effect OR $6 THEN greatest(expires, clock_timestamp() + $7::float8 * {µs}) ELSE clock_timestamp() + {released} END
WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done RETURNING CASE WHEN waited THEN pg_notify($4, $5)::text END`),
		// It skips a record that a transaction has locked to take it over.
		look: with(`UPDATE {t} SET waited = true WHERE id = (SELECT id FROM {t} WHERE id = $1 AND NOT done AND NOT waited FOR UPDATE SKIP LOCKED)`),
		left: with(`SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM {t} WHERE id = $1 AND NOT done`),
		expire: with(`DELETE FROM {t} WHERE id IN (SELECT id FROM {t} WHERE expires <= clock_timestamp()
AND until + keep <= clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED)`),

		// The statement after this one reads the record. Its snapshot has what was committed before
		// the lock was taken.
		tryLock: with(`SELECT pg_try_advisory_xact_lock($1 # {table}), '{t}'::regclass::oid, date_part('epoch', now()),
current_setting('transaction_isolation') = 'read committed'`),
		lock: with(`SELECT pg_advisory_xact_lock($1 # {table})`),
		// Three kinds of transactions must not be committed: one without its record, one that the
		// handler has begun, and one whose record is in another table because search_path has changed.
		// A division by zero refuses them. A record that is inserted as done never has a lease, so
		// its fence is 0. A claim of the expired record draws a fence.
		insertDone: with(`INSERT INTO {t} (id, owner, fence, fp_schema, fp_sum, done, outcome, until, expires, method, key_hash)
SELECT $1, $2, 0 / ('{t}'::regclass = $7 AND date_part('epoch', now()) = $8)::int, $3, $4, true, $5,
clock_timestamp() + $6::float8 * {µs}, clock_timestamp() + $6::float8 * {µs}, $9, $10`),
		updateDone: with(`WITH done AS (UPDATE {t} SET done = true, effect = false, outcome = $3, checkpoint = NULL, until = clock_timestamp() + $4::float8 * {µs}, keep = interval '0'
WHERE id = $1 AND owner = $2 AND NOT done AND date_part('epoch', now()) = $5 RETURNING 1) SELECT 1 / count(*) FROM done`),

		find: with(`SELECT ` + inspectColumns + `, outcome FROM {t} WHERE id = $1 AND (until > clock_timestamp() OR NOT done AND (owner <> '' OR effect))`),
		list: with(`SELECT ` + inspectColumns + `, NULL::bytea FROM {t} WHERE id > $1 AND (until > clock_timestamp() OR NOT done AND (owner <> '' OR effect))
ORDER BY id LIMIT $2`),
		free: with(`UPDATE {t} SET owner = '', effect = true, until = clock_timestamp(), expires = greatest(expires, clock_timestamp() + $6::float8 * {µs})
WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done AND owner <> '' RETURNING pg_notify($4, $5)::text`),
		forget: with(`DELETE FROM {t} WHERE id = $1 AND owner = $2 AND fence = $3 AND done = $4 AND (until <= clock_timestamp() OR NOT $5)`),
	}
}

// inspectColumns are the columns that an operator sees, except the outcome. The time left of a released
// record is that until it is deleted.
const inspectColumns = `id, owner, fence, done, effect, until > clock_timestamp(),
extract(epoch FROM CASE WHEN NOT done AND owner = '' THEN until + keep ELSE until END - clock_timestamp())::float8,
extract(epoch FROM clock_timestamp() - created)::float8, attempts, method, key_hash, checkpoint`
