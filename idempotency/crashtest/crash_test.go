package crashtest_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	crashtestv1 "github.com/hopbound/hopbound/idempotency/crashtest/proto/hopbound/crashtest/v1"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const (
	lease = 250 * time.Millisecond
	// patience is the deadline of each call.
	patience = 5 * time.Second
	// slack is how much later than its deadline a call may return on a busy machine.
	slack = 2 * time.Second
)

// arena is a store with the servers that use it.
type arena struct {
	*testing.T
	worker        string // the binary
	store, at     string
	ledger        string
	workers       [2]*worker
	restart       func()                     // kills the store and starts it again; nil if it is the worker's own
	signal        func(syscall.Signal)       // to all processes of the store; nil likewise
	ledgerEntries func() map[string][]string // runs by account

	counts map[string]int
}

// worker is a server's process.
type worker struct {
	process *exec.Cmd
	conn    *grpc.ClientConn
	client  crashtestv1.BankServiceClient
}

// start starts a server at a place of the arena, with a clock that is wrong by hours.
func (a *arena) start(place int) {
	a.Helper()
	cmd := exec.Command(a.worker, "-store", a.store, "-at", a.at, "-ledger", a.ledger, "-lease", lease.String()) //nolint:noctx // it is killed
	shift := 0
	if everything() { // else the clock cannot be set
		shift = (place*2 - 1) * 7 * 3600
		if strings.HasPrefix(a.store, "sqlite") { // all processes share the clock of their machine
			shift = 7 * 3600
		}
	}
	cmd.Env = append(os.Environ(), shiftVariable+"="+strconv.Itoa(shift))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		a.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		a.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		a.Fatal(err)
	}
	addr, clock, _ := strings.Cut(strings.TrimSpace(line), " ")
	if seconds, err := strconv.ParseInt(clock, 10, 64); err != nil || max(seconds-time.Now().Unix()-int64(shift), time.Now().Unix()+int64(shift)-seconds) > 60 {
		a.Fatalf("the worker's clock says %s, which is not %d s off", clock, shift)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		a.Fatal(err)
	}
	a.workers[place] = &worker{process: cmd, conn: conn, client: crashtestv1.NewBankServiceClient(conn)}
}

// bury waits for a killed server to end, and starts another in its place.
func (a *arena) bury(place int) {
	a.Helper()
	w := a.workers[place]
	_ = w.process.Wait()
	_ = w.conn.Close()
	a.start(place)
}

// call makes one call, and fails the test if it outlives its deadline.
func (a *arena) call(ctx context.Context, place int, account string, md ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	ctx = metadata.AppendToOutgoingContext(ctx, append(md, idempotency.Header, "key of "+account)...)
	reply, err := a.workers[place].client.Pay(ctx, &crashtestv1.PayRequest{Account: account}, grpc.WaitForReady(true))
	if took := time.Since(began); took > patience+slack {
		a.Errorf("a call with %v returned after %v", patience, took)
	}
	return reply.GetPayment(), err
}

// insist repeats a call until it gets an answer.
func (a *arena) insist(place int, account string) string {
	a.Helper()
	for range 20 {
		if run, err := a.call(a.Context(), place, account); err == nil {
			return run
		} else {
			a.counts["failed calls on the way"]++
		}
		time.Sleep(20 * time.Millisecond)
	}
	a.Fatalf("%s: twenty calls have failed", account)
	return ""
}

// faultOf returns the fault that the first call of a round meets.
func faultOf(n int) string {
	return []string{"kill", "stop", "kill", "restart", "pause", "gone"}[n/3%6]
}

// round is one key whose first call meets a fault.
func (a *arena) round(n int) {
	account := fmt.Sprint("account", n)
	where := []string{"claim", "effect", "outcome"}[n%3]
	fault := faultOf(n)
	if a.workers[1] == nil || a.restart == nil && (fault == "restart" || fault == "pause") {
		fault = "kill"
	}
	place := rand.IntN(2)
	other := 1 - place
	if a.workers[1] == nil {
		place, other = 0, 0
	}
	if fault == "kill" || fault == "stop" {
		a.counts[fault+" at "+where]++
	} else {
		a.counts[fault]++
	}
	switch fault {
	case "kill":
		if _, err := a.call(a.Context(), place, account, "x-end", where); err == nil {
			a.Errorf("%s: a server that was killed has answered", account)
		}
		a.bury(place)
	case "restart": // of the store, while the call may be under way
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = a.call(a.Context(), place, account) })
		time.Sleep(rand.N(10 * time.Millisecond)) // anywhere within the call
		a.restart()
		wg.Wait()
	case "pause": // the store stands still for longer than a lease
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = a.call(a.Context(), place, account) })
		time.Sleep(rand.N(10 * time.Millisecond))
		a.signal(syscall.SIGSTOP)
		time.Sleep(lease + lease/2)
		a.signal(syscall.SIGCONT)
		wg.Wait()
	case "gone": // the caller is killed while its call is under way
		ctx, kill := context.WithTimeout(a.Context(), rand.N(10*time.Millisecond))
		_, _ = a.call(ctx, place, account)
		kill()
	case "stop":
		a.stop(place, other, where, account)
	}
	first := a.insist(other, account)
	if again := a.insist(place, account); again != first {
		a.Errorf("%s (%s at %s): one server says %s, and the other %s", account, fault, where, first, again)
	}
}

// stop has a server stopped for longer than its lease, while another server gets a call. Both callers get the same answer.
func (a *arena) stop(place, other int, where, account string) {
	answer := make(chan string, 1)
	go func() {
		run, err := a.call(a.Context(), place, account, "x-end", where, "x-stop", "1")
		if err != nil {
			run = ""
		}
		answer <- run
	}()
	stopped := a.workers[place].process.Process
	for !isStopped(stopped.Pid) {
		time.Sleep(time.Millisecond)
	}
	var successor string
	var wg sync.WaitGroup
	wg.Go(func() {
		if run, err := a.call(a.Context(), other, account); err == nil {
			successor = run
		}
	})
	time.Sleep(lease + lease/2)
	if err := stopped.Signal(syscall.SIGCONT); err != nil {
		a.Error(err)
	}
	wg.Wait()
	if zombie := <-answer; zombie != "" && successor != "" && zombie != successor {
		a.Errorf("%s (stopped at %s): the zombie's caller got %s, and the other %s", account, where, zombie, successor)
	}
}

// isStopped reports whether a process was stopped by a signal.
func isStopped(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // it is not there to wait for
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(rest, "T")
}

// rounds is the number of keys for each store: HOPBOUND_CRASH_ROUNDS if it is set, and otherwise 126 if everything is to be
// tested, or 18.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("HOPBOUND_CRASH_ROUNDS")); err == nil {
		return n
	}
	if everything() {
		return 126
	}
	return 18
}

// everything reports whether the tests may take minutes.
func everything() bool { return os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" }

// Servers are killed after the claim, after the effect and after the outcome, or stopped there for longer than their lease. Their
// stores are killed, or stopped for longer than a lease. Their callers are killed, and their clocks are hours apart. In the end,
// every caller of a key gets the same answer, within its deadline. With transactions, each effect happens once. With leases, an
// effect happens at most once more for each server that was killed, stopped or cut off after its effect, and TakenOver is true in
// every run but the first.
func TestEachKeyHasOneOutcomeWhateverCrashes(t *testing.T) {
	t.Parallel()
	binary := buildWorker(t)
	for _, store := range []string{"bolt", "redis", "pg", "pgtx", "sqlite", "sqlitetx"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			a := &arena{T: t, worker: binary, store: store, ledger: filepath.Join(dir, "ledger"), counts: map[string]int{}}
			a.ledgerEntries = a.readLedger
			workers := 2
			switch store {
			case "bolt":
				a.at, workers = filepath.Join(dir, "db"), 1
			case "sqlite", "sqlitetx":
				a.at = filepath.Join(dir, "db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(100)"
				a.migrateSQLite()
			case "redis":
				s := services.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
				a.at, a.restart, a.signal = s.Addr, func() { s.Kill(); s.Start() }, s.SignalAll
			default:
				s := services.Postgres(t, "fsync=on")
				a.at, a.restart, a.signal = s.URL(), func() { s.Kill(); s.Start() }, s.SignalAll
				a.migrate()
			}
			for place := range workers {
				a.start(place)
			}
			t.Cleanup(func() {
				for _, w := range a.workers {
					if w != nil {
						_ = w.process.Process.Kill()
						_ = w.process.Wait()
						_ = w.conn.Close()
					}
				}
			})
			began := time.Now()
			for n := range rounds() {
				if a.round(n); t.Failed() {
					return
				}
			}
			a.account(time.Since(began))
		})
	}
}

// account compares the ledger with the promises of the stores, and prints the counts.
func (a *arena) account(took time.Duration) {
	a.Helper()
	runs := map[int]int{}
	for account, list := range a.ledgerEntries() {
		runs[len(list)]++
		n, _ := strconv.Atoi(strings.TrimPrefix(account, "account"))
		most := 1
		fault := faultOf(n)
		if !a.transactional() && (n%3 < 2 || fault != "kill" && fault != "stop") {
			most = 2
		}
		if len(list) > most {
			a.Errorf("%s: %d effects, want at most %d", account, len(list), most)
		}
		first := 0 // runs that were told of no other; a zombie may be the last to have its effect
		for _, run := range list {
			if strings.HasSuffix(run, " first") {
				first++
			} else if !a.transactional() {
				a.counts["runs that were told"]++
			}
		}
		if first > 1 {
			a.Errorf("%s: %d runs were told of no other: %q", account, first, list)
		}
	}
	total := 0
	for _, n := range runs {
		total += n
	}
	if total != rounds() {
		a.Errorf("%d keys have an effect, of %d", total, rounds())
	}
	a.Logf("%d keys in %v; keys by effects: %v; %v", rounds(), took.Round(time.Second), runs, a.counts)
}
