// Command hopbound-keys shows the records of idempotency keys in a store, and releases or
// deletes them. It is for the operator of a service whose store is Redis, PostgreSQL or a bolt
// file.
//
//	hopbound-keys -store redis://127.0.0.1:6379 find -method /shop.v1.Orders/Place -key K
//	hopbound-keys -store postgres://shop@db/shop find -hash 0123456789abcdef
//	hopbound-keys -store bolt:/var/lib/shop/keys.db list -older 10m
//	hopbound-keys release -hash 0123456789abcdef -reason "the handler hangs, ticket 4711"
//	hopbound-keys delete -id xK3h… -reason "a bug stored a wrong failure, ticket 4712"
//	hopbound-keys sql -schema shop -role shop
//
// Traces and logs show the hash of a key as hopbound.idempotency.key_hash. The command never prints a
// key. It prints a stored response only for find -response.
//
// The exit code is 0 if a record was found or changed. It is 1 if no record was found, if the command
// refused, or if the store failed. It is 2 if the flags are wrong. See hopbound-keys -h and
// docs/idempotency.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// The exit codes of failures.
const (
	exitFailed = 1
	exitUsage  = 2
)

const usage = `hopbound-keys shows, releases and deletes records of idempotency keys in a store.

Usage: hopbound-keys [flags] command [flags]

Commands:
  find     shows a record, or all records with a key hash
  list     lists pending records whose lease has expired
  release  ends a pending run. The next call with the key runs the handler, and
           idempotency.TakenOver reports to it that an earlier run may have had an effect
  delete   deletes a record. The next call with the key runs the handler, and
           idempotency.TakenOver reports nothing to it
  sql      prints the SQL that creates the tables of a PostgreSQL store

find, release and delete need one of:
  -method M -key K [-tenant T]   the call's full method, its key and its tenant
  -hash H                        the key hash that traces and logs show as
                                 hopbound.idempotency.key_hash
  -id ID                         the ID that find and list print

Nothing needs to be done for a pending record whose lease has expired: the next call with its key
takes the record over. With -older, list also shows records whose handlers may still be running.

release and delete need -reason. They print the record, and log the result to standard error. They
change nothing if the record was claimed, completed or deleted after they printed it.
Only one process can open a bolt file: stop the server first.

Exit codes: 0 found or done; 1 not found, refused or failed; 2 wrong flags.

Flags, before or after the command:
`

type command struct {
	name  string
	flags string // the names of the flags that it accepts
	run   func(ctx context.Context, o *options) error
}

const (
	storeFlags  = "store prefix schema seal-key timeout json "
	recordFlags = storeFlags + "method key tenant hash id "
)

func commands() []command {
	return []command{
		{"find", recordFlags + "response", find},
		{"list", storeFlags + "method older state", list},
		{"release", recordFlags + "reason", release},
		{"delete", recordFlags + "reason force", remove},
		{"sql", "schema role down", writeSQL},
	}
}

// options are the flags and the outputs.
type options struct {
	store, prefix, schema string
	sealKeys              map[string][]byte // by name
	timeout               time.Duration
	json                  bool

	method, key, tenant, hash, id string
	response                      bool

	older time.Duration
	state string

	reason string
	force  bool

	role string
	down bool

	given          map[string]bool // the names of the flags that were given
	stdout, stderr io.Writer
}

func (o *options) define(flags *flag.FlagSet) {
	flags.StringVar(&o.store, "store", "", "`address` of the store: redis://host:6379, postgres://user@host/database or bolt:file;\nthe default is the environment variable HOPBOUND_STORE")
	flags.StringVar(&o.prefix, "prefix", "", "`prefix` of the keys in Redis, if the server uses redisstore.WithPrefix")
	flags.StringVar(&o.schema, "schema", "", "`schema` of the tables in PostgreSQL, if the server uses pgstore.WithSchema")
	flags.Func("seal-key", "`name=file` of a key that seals outcomes, in hexadecimal digits; may be repeated", o.addSealKey)
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "maximum time for the command")
	flags.BoolVar(&o.json, "json", false, "print each record as a JSON object on one line, and log in JSON")
	flags.StringVar(&o.method, "method", "", "full `method`, such as /shop.v1.Orders/Place")
	flags.StringVar(&o.key, "key", "", "idempotency `key` of the call")
	flags.StringVar(&o.tenant, "tenant", "", "`tenant` of the call, as the server's idempotency.Tenant returns it")
	flags.StringVar(&o.hash, "hash", "", "`hash` of the key: 16 hexadecimal digits")
	flags.StringVar(&o.id, "id", "", "`ID` of the record")
	flags.BoolVar(&o.response, "response", false, "find: print the stored response or failure too, which may contain secrets")
	flags.DurationVar(&o.older, "older", 0, "list: only records whose first run started at least this long ago, including those with a valid lease")
	flags.StringVar(&o.state, "state", "pending", "list: `state` of the records: pending, released, done or all")
	flags.StringVar(&o.reason, "reason", "", "release, delete: the reason, which is logged")
	flags.BoolVar(&o.force, "force", false, "delete: also a pending record whose lease is valid, although its handler may be running")
	flags.StringVar(&o.role, "role", "", "sql: also print the grants for the `role` with which the server connects")
	flags.BoolVar(&o.down, "down", false, "sql: print the SQL that drops the tables, with all records")
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run runs the command and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	o := &options{stdout: stdout, stderr: stderr, given: map[string]bool{}, sealKeys: map[string][]byte{}}
	flags := flag.NewFlagSet("hopbound-keys", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o.define(flags)
	cmd, err := o.parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
		defer cancel()
		err = cmd.run(ctx, o)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "hopbound-keys:", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// parse parses the flags before and after the command.
func (o *options) parse(flags *flag.FlagSet, args []string) (command, error) {
	if err := flags.Parse(args); err != nil {
		return command{}, asUsage(err)
	}
	name := flags.Arg(0)
	at := slices.IndexFunc(commands(), func(c command) bool { return c.name == name })
	if at < 0 {
		return command{}, usagef("unknown command %q; the commands are find, list, release, delete and sql (see -h)", name)
	}
	if err := flags.Parse(flags.Args()[1:]); err != nil {
		return command{}, asUsage(err)
	}
	cmd := commands()[at]
	if flags.NArg() > 0 { // one of them may be a key, so they are not printed
		return command{}, usagef("%s takes flags only; quote values that contain spaces (extra arguments: %d)", name, flags.NArg())
	}
	var err error
	flags.Visit(func(f *flag.Flag) {
		o.given[f.Name] = true
		if !slices.Contains(strings.Fields(cmd.flags), f.Name) {
			err = usagef("%s does not take -%s", name, f.Name)
		}
	})
	if o.timeout <= 0 {
		err = usagef("-timeout must be positive")
	}
	return cmd, err
}

// usageError is an error in the flags.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

func asUsage(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	return usageError(err.Error())
}
