package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What no output may contain.
const (
	key      = idempotency.Key("key-that-nobody-may-see")
	response = "response-that-nobody-may-see"
	password = "password-that-nobody-may-see"
)

const method = "/shop.v1.Orders/Place"

// lasting is printed as an hour and something, however long a test takes.
const lasting = 90 * time.Minute

// result is what the command has done.
type result struct {
	code     int
	out, log string
}

// invoke runs the command and checks that it prints no secret.
func invoke(t *testing.T, args ...string) result {
	t.Helper()
	var out, log bytes.Buffer
	code := run(args, &out, &log)
	r := result{code, out.String(), log.String()}
	all := r.out + r.log
	for _, secret := range []string{string(key), password} {
		if strings.Contains(all, secret) {
			t.Errorf("%v printed %q:\n%s", args, secret, all)
		}
	}
	if !slices.Contains(args, "-response") && (strings.Contains(all, response) || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(response)))) {
		t.Errorf("%v printed the response:\n%s", args, all)
	}
	return r
}

// want checks the exit code, and that the outputs contain all texts.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.log, text) {
			t.Errorf("no %q", text)
		}
	}
	if t.Failed() {
		t.Fatalf("standard output:\n%s\nstandard error:\n%s", r.out, r.log)
	}
}

// objects returns the JSON objects of the lines on standard output.
func (r result) objects(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(r.out) {
		object := map[string]any{}
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, object)
	}
	return all
}

// newBolt returns the path of a file in which use has made records.
func newBolt(t *testing.T, use func(store idempotency.Inspector)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	withBolt(t, path, use)
	return path
}

func withBolt(t *testing.T, path string, use func(store idempotency.Inspector)) {
	t.Helper()
	store, err := boltstore.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	use(store)
}

// begin claims a write, as a server does.
func begin(t *testing.T, store idempotency.Store, tenant, fullMethod string, lease time.Duration) idempotency.Lease {
	t.Helper()
	claim := idempotency.Claim{
		ID: idempotency.NewID(tenant, fullMethod, key), Owner: "owner-1", Lease: lease, Retention: time.Hour,
		Tenant: tenant, Method: fullMethod, KeyHash: key.Hash(),
	}
	b, err := store.Begin(t.Context(), claim)
	if err != nil || b.State != idempotency.Run {
		t.Fatalf("%v, %v", b.State, err)
	}
	return idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: b.Fence}
}

// complete stores an outcome.
func complete(t *testing.T, store idempotency.Store, lease idempotency.Lease, codec idempotency.Codec, o *idempotency.Outcome) {
	t.Helper()
	raw, err := codec.Encode(lease.ID, o)
	if err == nil {
		err = store.Complete(t.Context(), lease, raw, lasting)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// save stores a checkpoint.
func save(t *testing.T, store idempotency.Store, lease idempotency.Lease, codec idempotency.Codec, checkpoint string) {
	t.Helper()
	raw, err := codec.EncodeCheckpoint(lease.ID, []byte(checkpoint))
	if err == nil {
		err = store.Save(t.Context(), lease, raw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// runOut waits until a lease has run out.
func runOut(t *testing.T, store idempotency.Inspector, id idempotency.ID) {
	t.Helper()
	for {
		r, err := store.Find(t.Context(), id)
		if err == nil && r != nil && r.Left <= 0 {
			return
		}
		if err == nil {
			err = store.Wait(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// newSealKey returns a codec that seals, and the flag that opens what it has sealed.
func newSealKey(t *testing.T) (idempotency.Codec, string) {
	t.Helper()
	sealKey := bytes.Repeat([]byte{7}, 32)
	keys, err := idempotency.NewKeyRing("2026", map[string][]byte{"2026": sealKey})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.hex")
	if err := os.WriteFile(file, []byte(hex.EncodeToString(sealKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return idempotency.Codec{Keys: keys}, "2026=" + file
}

func TestHelpExplainsEachCommandAndFlag(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"find", "-help"}} {
		r := invoke(t, args...)
		r.want(t, 0, "Usage: hopbound-keys", "Exit codes:")
		for _, c := range commands() {
			r.want(t, 0, "\n  "+c.name+" ")
			for name := range strings.FieldsSeq(c.flags) {
				r.want(t, 0, "\n  -"+name)
			}
		}
	}
}

func TestWrongFlagsAreExplained(t *testing.T) {
	t.Parallel()
	long := filepath.Join(t.TempDir(), "long.hex")
	if err := os.WriteFile(long, []byte("00"), 0o600); err != nil {
		t.Fatal(err)
	}
	store := "-store=bolt:none.db"
	hash := "-hash=0123456789abcdef"
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no command":            {nil, "the commands are find"},
		"an unknown command":    {[]string{"fnd"}, `unknown command "fnd"`},
		"an unknown flag":       {[]string{"find", "-nonsense"}, "-nonsense"},
		"an argument":           {[]string{"find", store, "-method", method, "-key", "a", string(key)}, "find takes flags only; quote values that contain spaces (extra arguments: 1)"},
		"another's flag":        {[]string{"find", store, hash, "-reason", "x"}, "find does not take -reason"},
		"a timeout of zero":     {[]string{"find", store, hash, "-timeout", "0s"}, "-timeout must be positive"},
		"no store":              {[]string{"find", hash}, "-store is missing"},
		"an unknown store":      {[]string{"-store", "mysql://" + password, "find", hash}, "-store must begin with"},
		"no URL of Redis":       {[]string{"-store", "redis://u:" + password + "@h:x", "find", hash}, "-store is not a valid Redis URL"},
		"a database of Redis":   {[]string{"-store", "redis://h/" + password, "find", hash}, "-store is not a valid Redis URL"},
		"no URL of PostgreSQL":  {[]string{"-store", "postgres://u:" + password + "@h:x/d", "find", hash}, "-store: "},
		"a prefix elsewhere":    {[]string{"find", store, hash, "-prefix", "p"}, "-prefix requires a Redis store"},
		"a schema elsewhere":    {[]string{"find", store, hash, "-schema", "p"}, "-schema requires a PostgreSQL store"},
		"a bad schema":          {[]string{"find", "-store", "postgres://h/d", hash, "-schema", "a'b"}, "WithSchema"},
		"no record":             {[]string{"find", store}, "give -hash, or -id, or -method with -key"},
		"two records":           {[]string{"find", store, hash, "-id", "x"}, "give -hash, or -id, or -method with -key"},
		"a hash and a method":   {[]string{"find", store, hash, "-method", method}, "-method and -tenant must be used with -key"},
		"a short hash":          {[]string{"find", store, "-hash", "0123"}, "-hash must have 16 hexadecimal digits"},
		"no ID":                 {[]string{"find", store, "-id", "x"}, "-id must have 43 characters"},
		"a key without method":  {[]string{"find", store, "-key", string(key)}, "-method must be a full method"},
		"no full method":        {[]string{"find", store, "-key", string(key), "-method", "Place"}, "-method must be a full method"},
		"no key":                {[]string{"find", store, "-key", string(key) + ",", "-method", method}, "-key: idempotency key must be printable ASCII"},
		"a state":               {[]string{"list", store, "-state", "lost"}, `not "lost"`},
		"a negative age":        {[]string{"list", store, "-older", "-1s"}, "-older must not be negative"},
		"no reason to release":  {[]string{"release", store, hash}, "-reason is missing"},
		"no reason to delete":   {[]string{"delete", store, hash, "-reason", " "}, "-reason is missing"},
		"a reason with the key": {[]string{"delete", store, "-key", string(key), "-method", method, "-reason", "for " + string(key)}, "-reason must not contain the key"},
		"no name of a key":      {[]string{"find", store, hash, "-seal-key", "file"}, "must be name=file"},
		"no file of a key":      {[]string{"find", store, hash, "-seal-key", "a=none.hex"}, "no such file"},
		"no digits of a key":    {[]string{"find", store, hash, "-seal-key", "a=main_test.go"}, "main_test.go must contain only hexadecimal digits"},
		"a short key":           {[]string{"find", store, hash, "-seal-key", "a=" + long}, "invalid key size 1"},
		"a role of down":        {[]string{"sql", "-down", "-role", "shop"}, "-role cannot be used with -down"},
		"an empty role":         {[]string{"sql", "-role", ""}, "-role must not be empty"},
		"an empty schema":       {[]string{"sql", "-schema", ""}, "WithSchema: the name must not be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, tc.args...)
			r.want(t, exitUsage, tc.want)
			if r.out != "" || !strings.HasPrefix(r.log, "hopbound-keys: ") {
				t.Errorf("%q, %q", r.out, r.log)
			}
		})
	}
}

func TestStoreMayBeInTheEnvironment(t *testing.T) {
	t.Setenv("HOPBOUND_STORE", "bolt:"+newBolt(t, func(store idempotency.Inspector) { begin(t, store, "", method, time.Hour) }))
	invoke(t, "find", "-hash", key.Hash()).want(t, 0, "key_hash            "+key.Hash())
}

func TestBoltFileOfAnotherProcessIsExplained(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "held.db")
	withBolt(t, path, func(idempotency.Inspector) {
		invoke(t, "-store", "bolt:"+path, "list").want(t, exitFailed, "another process has the file open: "+path, "stop that process and try again")
	})
	path = filepath.Join(t.TempDir(), "none.db")
	invoke(t, "-store", "bolt:"+path, "list").want(t, exitFailed, path, "no such file")
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was made")
	}
}

func TestStoreThatDoesNotAnswerIsExplained(t *testing.T) {
	t.Parallel()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts, and answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for _, tc := range []struct{ store, want string }{
		{"redis://u:" + password + "@127.0.0.1:1", "cannot connect to Redis"},
		{"postgres://u:" + password + "@127.0.0.1:1/d", "failed to connect"},
		{"redis://u:" + password + "@" + silent.Addr().String(), "cannot connect to Redis"},
		{"postgres://u:" + password + "@" + silent.Addr().String() + "/d", "-timeout gives the command more time"},
	} {
		invoke(t, "-store", tc.store, "-timeout", "300ms", "list").want(t, exitFailed, tc.want)
	}
}
