package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hopbound/hopbound/examples/payments/internal/chaos"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// TestMain runs a service if the launcher has started this program for that.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// command runs the command, and returns what it printed.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	code = run(t.Context(), args, &out, &log)
	return code, out.String(), log.String()
}

// The story is told with servers that run already.
func TestStory(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	postgres, redis := services.Postgres(t), services.Redis(t, "--appendonly", "yes")
	code, out, log := command(t, "-postgres", postgres.Addr, "-redis", redis.Addr)
	if code != 0 {
		t.Fatalf("exit %d\n%s\n%s", code, out, log)
	}
	if left := databases(t, postgres.Addr); len(left) > 0 {
		t.Errorf("the run has left the databases %v", left)
	}
	squeezed := strings.Join(strings.Fields(out), " ")
	if !regexp.MustCompile(`asks again (paid|pending) 1 × 49.00 €`).MatchString(squeezed) { // it depends on how far the first call got
		t.Errorf("the lamp is not in\n%s", out)
	}
	for _, want := range []string{
		"alice buys a book paid 1 × 19.99 €",
		"she presses the button again (the same key) paid, the same order 1 × 19.99 €",
		"she buys two tickets on purpose (two keys) paid, another order 2 × 5.00 €",
		"bob happens to use the key of alice's chair paid, another order 2 × 80.00 €",
		"bob asks for alice's receipt NotFound 2 × 80.00 €",
		"alice uses the key of a pen for a car FailedPrecondition KEY_REUSED 1 × 2.00 €",
		"is killed while alice buys a bicycle paid 1 × 499.00 €",
		"the bank is down when alice buys a sofa pending 0 × 0.00 €",
		"the bank is back, and alice looks at her receipt paid 1 × 999.00 €",
		"alice: alice buys a bicycle",
		"call of payments to LedgerService/Book: done",
		"alice -1658.99 € 1658.99 € bob -80.00 € 80.00 € shop 1738.99 € 0.00 € sum 0.00 €",
	} {
		if !strings.Contains(squeezed, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

// databases returns the databases of a server that are not its own.
func databases(t *testing.T, address string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), "postgres://postgres@"+address+"/postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'`)
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// chaosRun makes payments while everything fails, and returns the only object on the standard output.
func chaosRun(t *testing.T, args ...string) chaos.Result {
	t.Helper()
	services.Postgres(t) // it skips the test if they are missing; the run has its own
	services.Redis(t)
	code, out, log := command(t, append(args, "-json")...)
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	var r chaos.Result
	if err := d.Decode(&r); err != nil || d.More() || code != 0 {
		t.Fatalf("exit %d, %v\n%s\n%s", code, err, out, log)
	}
	t.Logf("%s", out)
	return r
}

// Whatever fails, every payment is made once, everybody is told the same, and the books agree.
func TestBooksAgreeWhateverFails(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	r := chaosRun(t, "-chaos", "60s", "-seed", "1")
	if r.Payments < 500 || r.Acknowledged < r.Payments*9/10 || r.Kills == 0 || r.Restarts == 0 {
		t.Errorf("too little has happened: %+v", r)
	}
	if r.BankAmplification > 1.5 { // on a busy machine, calls of the bank time out
		t.Errorf("%v calls of the bank for each payment", r.BankAmplification)
	}
}

// Without idempotency, the same run charges carts twice, so that the check above can fail.
func TestBooksDoNotAgreeWithoutKeys(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	for _, flag := range []string{"-idempotency=false", "-native"} {
		if r := chaosRun(t, "-chaos", "12s", "-seed", "1", flag); r.DoubleCharges == 0 {
			t.Errorf("%s: no cart is charged twice", flag)
		}
	}
}

// untilFaults collects what a run reports, and ends it at a number of faults.
type untilFaults struct {
	bytes.Buffer
	n   int
	end func()
}

func (u *untilFaults) Write(p []byte) (int, error) {
	if u.n--; u.n == 0 {
		u.end()
	}
	return u.Buffer.Write(p)
}

// An interrupt ends a run early. What was accepted is finished, and the books agree.
func TestInterruptDrains(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	services.Postgres(t)
	services.Redis(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out bytes.Buffer
	log := &untilFaults{n: 3, end: interrupt}
	if code := run(ctx, []string{"-chaos", "1h", "-json"}, &out, log); code != 0 {
		t.Fatalf("exit %d\n%s", code, log.String())
	}
	var r chaos.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Payments < 10 || r.Seconds > 60 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestEmbeddedForm(t *testing.T) {
	t.Parallel()
	code, out, log := command(t, "-embedded", "-carts", "10")
	if code != 0 || !strings.Contains(out, "hopbound") || log != "" {
		t.Errorf("exit %d\n%s\n%s", code, out, log)
	}
}

func TestWrongFlagsAreReported(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"unexpected argument":        {"x"},
		"must not be negative":       {"-chaos", "-1s"},
		"-json needs -chaos":         {"-json"},
		"only one of -chaos":         {"-embedded", "-chaos", "1s"},
		"not defined":                {"-x"},
		"there is no instance":       {"serve", "-config", emptyConfig(t), "-role", "x"},
		"no such file":               {"serve", "-config", "/does/not/exist", "-role", "x"},
		"flag provided but not":      {"serve", "-x"},
		"-rate must be":              {"-chaos", "1s", "-rate", "NaN"},
		"-stuck needs keys":          {"-stuck", "-native"},
		"-embedded shows both":       {"-embedded", "-native"},
		`unexpected argument "sofa"`: {"client", "buy", "-cart", "red", "sofa", "-key", "k"},
		`"fly" is no command`:        {"client", "fly"},
		`"" is no command`:           {"client", "-as", "bob"},
		"not defined: -cart":         {"client", "receipt", "-cart", "book"},
		"not defined: -order":        {"client", "buy", "-order", "o"},
	} {
		code, out, log := command(t, args...)
		if !slices.Contains([]int{exitFailed, exitUsage}, code) || out != "" || !strings.Contains(log, want) {
			t.Errorf("%s: exit %d, %q, %q", want, code, out, log)
		}
	}
}

func emptyConfig(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/config.json"
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
