package chaos_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/fault"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
)

var write = flag.Bool("write", false, "write docs/chaos.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row is a fault and what is promised.
type row struct {
	name    string
	what    string // is injected
	promise string // to users
	prepare func(c *chain)
	inject  func(c *chain, rate *atomic.Int64)
	heal    func(c *chain, rate *atomic.Int64)

	// The promise in numbers.
	served        float64       // at least this share of the reads gets a reply during the fault
	real          float64       // at least this share of all requests is served by the last service during the fault
	written       float64       // at least this share of the writes succeeds during the fault
	amplification float64       // at most so many calls of the last service per request during the fault
	settle        time.Duration // after so long, 99 % of the requests are served again
	codes         []codes.Code  // of failures, during the fault
}

const everywhere = 1.0

// all is a rule for a share of the calls.
func all(r fault.Rule, share float64) fault.Rule {
	r.Name, r.Share = "chaos", share
	return r
}

// set sets the rules of faults. They are valid.
func set(f *fault.Faults, rules ...fault.Rule) {
	if err := f.Set(rules...); err != nil {
		panic(err)
	}
}

func rows() []row {
	failing := []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted}
	return []row{
		{
			name: "service killed", what: "service 4 dies with all its connections and its memory, and a new process starts 15 s later",
			promise: "reads are answered by the fallback, writes fail at once; all is well 4 s after the new process has started",
			inject:  func(c *chain, _ *atomic.Int64) { c.hops[4].kill() },
			heal:    func(c *chain, _ *atomic.Int64) { c.hops[4].start() },
			served:  1, amplification: 0.05, settle: 4 * time.Second, codes: failing,
		},
		{
			name: "latency", what: "service 5 takes 2 s for each call instead of 2 ms",
			promise: "reads are answered by the fallback, writes fail within their deadline; all is well 5 s after the latency is gone",
			inject:  func(c *chain, _ *atomic.Int64) { c.job.Store(int64(2 * time.Second)) },
			heal:    func(c *chain, _ *atomic.Int64) { c.job.Store(int64(job)) },
			served:  0.99, amplification: 0.2, settle: 5 * time.Second, codes: append(failing, codes.Aborted),
		},
		{
			name: "partition", what: "all packets between services 3 and 4 are dropped for 15 s, in both directions, without notice",
			promise: "reads are answered by the fallback, writes fail within their deadline; all is well 5 s after the partition",
			inject:  func(c *chain, _ *atomic.Int64) { c.hops[4].network.Partition() },
			heal:    func(c *chain, _ *atomic.Int64) { c.hops[4].network.Heal() },
			served:  0.99, amplification: 0.05, settle: 5 * time.Second, codes: failing,
		},
		{
			name: "error burst", what: "service 5 answers 10 % of the calls with UNAVAILABLE",
			promise: "retries rescue 99 % of the requests, with at most an eighth more calls; all is well 4 s later",
			inject: func(c *chain, _ *atomic.Int64) {
				set(c.hops[5].serving, all(fault.Rule{Code: codes.Unavailable}, 0.1))
			},
			heal:   func(c *chain, _ *atomic.Int64) { set(c.hops[5].serving) },
			served: 1, real: 0.99, written: 0.99, amplification: 1.125, settle: 4 * time.Second, codes: failing,
		},
		{
			name: "overload", what: "users make four times as many requests as service 5 can serve (8 calls at a time, 40 ms each)",
			promise: "service 5 works at 90 % of its capacity or more, and rejects the rest at once; all is well 4 s later",
			inject: func(c *chain, rate *atomic.Int64) {
				c.job.Store(int64(40 * ms))
				rate.Store(4 * places * 25)
			},
			heal: func(c *chain, rate *atomic.Int64) {
				c.job.Store(int64(job))
				rate.Store(usual)
			},
			served: 0.99, real: 0.9 / 4, amplification: 1.25, settle: 4 * time.Second, codes: failing,
		},
		{
			name: "lost replies", what: "10 % of the replies of service 5 are lost on their way to service 4",
			promise: "retries with the key rescue 99 % of the requests, and no write happens twice",
			inject: func(c *chain, _ *atomic.Int64) {
				set(c.hops[5].calls, all(fault.Rule{LoseReply: true}, 0.1))
			},
			heal:   func(c *chain, _ *atomic.Int64) { set(c.hops[5].calls) },
			served: 1, real: 0.99, written: 0.99, amplification: 1.2, settle: 4 * time.Second, codes: failing,
		},
		{
			name: "clock skew", what: "the clocks of services 2 and 4 are an hour ahead, that of service 3 an hour behind, all at once",
			promise: "nobody notices",
			inject: func(c *chain, _ *atomic.Int64) {
				for i, skew := range map[int]time.Duration{3: time.Hour, 4: -time.Hour, 5: time.Hour} {
					set(c.hops[i].calls, all(fault.Rule{ClockSkew: skew}, everywhere))
				}
			},
			heal: func(c *chain, _ *atomic.Int64) {
				for i := 3; i <= 5; i++ {
					set(c.hops[i].calls)
				}
			},
			served: 1, real: 1, written: 1, amplification: 1.001, settle: 0,
		},
		{
			name: "store down", what: "the idempotency store of service 5 does not answer",
			promise: "reads are not affected; writes fail with UNAVAILABLE and do not happen; all is well 4 s later",
			inject: func(c *chain, _ *atomic.Int64) {
				c.hops[5].store.Set(c.hops[5].store.Before, "begin", harness.ErrStore)
			},
			heal:   func(c *chain, _ *atomic.Int64) { c.hops[5].store.Set(c.hops[5].store.Before, "begin", nil) },
			served: 1, real: 0.79, amplification: 1, settle: 4 * time.Second, codes: []codes.Code{codes.Unavailable},
		},
		{
			name: "connection silently dead", what: "a NAT gateway forgets the connection between services 3 and 4, and drops its packets; a new one would work",
			promise: "reads are answered by the fallback until the connection is found dead, within 12 s of its last packet; then all is well",
			inject:  func(c *chain, _ *atomic.Int64) { c.hops[4].network.Silence() },
			heal:    func(*chain, *atomic.Int64) {},
			served:  0.99, amplification: 1, settle: 0, codes: failing,
		},
		{
			name: "certificate expired", what: "the certificate of service 3 expires, and is renewed 15 s later; connections are renewed every 5 s",
			promise: "reads are answered by the fallback, writes fail at once; all is well 4 s after the new certificate",
			prepare: func(c *chain) {
				h := c.hops[3]
				h.maxAge, h.tls = 5*time.Second, newCertificates(c.t, time.Now().Add(before))
			},
			inject: func(*chain, *atomic.Int64) {},
			heal:   func(c *chain, _ *atomic.Int64) { c.hops[3].tls.renew(time.Now().Add(time.Hour)) },
			served: 1, amplification: 0.7, settle: 4 * time.Second, codes: failing,
		},
		{
			name: "DNS gone", what: "the name of service 4 cannot be resolved, and its connections break",
			promise: "the addresses that are known are used; nobody notices",
			inject: func(c *chain, _ *atomic.Int64) {
				c.hops[4].names.CC().ReportError(errors.New("the name server does not answer"))
				c.hops[4].cut()
			},
			heal: func(c *chain, _ *atomic.Int64) {
				c.hops[4].names.UpdateState(addresses())
			},
			served: 1, real: 0.99, written: 0.99, amplification: 1.02, settle: 0, codes: failing,
		},
	}
}

// newCertificates returns certificates of which the first one is valid until a time.
func newCertificates(t testing.TB, until time.Time) *certificates {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key))(t)))(t)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	c := &certificates{roots: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "service"}}
	c.issue = func(until time.Time) tls.Certificate {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"service"}, NotBefore: ca.NotBefore, NotAfter: until}
		return tls.Certificate{Certificate: [][]byte{must(x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key))(t)}, PrivateKey: key}
	}
	c.renew(until)
	return c
}

// Each fault does to users what docs/chaos.md promises, and no write ever happens twice or is lost, and no request ends
// late.
func TestFaultsDoToUsersWhatIsPromised(t *testing.T) {
	if raceDetector {
		t.Skip("it makes some 50,000 requests through five services, and other tests look for races")
	}
	var mu sync.Mutex
	results := map[string]*result{}
	table := append(rows(), diskFull())
	t.Run("faults", func(t *testing.T) {
		for _, row := range table {
			t.Run(row.name, func(t *testing.T) {
				if row.name != diskFull().name { // it limits the files of the process
					t.Parallel()
				}
				synctest.Test(t, func(t *testing.T) {
					r := run(t, &row)
					row.check(t, r)
					mu.Lock()
					defer mu.Unlock()
					results[row.name] = r
				})
			})
		}
	})
	const document = "../../../docs/chaos.md"
	if *write && !t.Failed() {
		if err := os.WriteFile(document, []byte(render(table, results)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := must(os.ReadFile(document))(t)
	for _, r := range table {
		if !strings.Contains(string(text), "| **"+r.name+"**: "+r.what+" | "+r.promise+" |") {
			t.Errorf("docs/chaos.md does not have the row of %s; write it with -args -write", r.name)
		}
	}
}

// check compares what was measured with what is promised.
func (row *row) check(t *testing.T, r *result) {
	t.Helper()
	d := &r.during
	t.Logf("during: %+v, real %.3f, reads served %.3f, writes %.3f, leaf calls per request %.3f; settled: %+v; recovered after %v; twice %d, lost %d, late %d",
		*d, d.real(), d.served(), d.written(), d.amplification(), r.settled, r.recovered, r.twice, r.lost, r.late)
	for what, ok := range map[string]bool{
		"reads served":               d.served() >= row.served,
		"real replies":               d.real() >= row.real,
		"writes":                     d.written() >= row.written,
		"calls of the last service":  d.amplification() <= row.amplification,
		"requests served again":      r.settled.real() >= 0.99,
		"writes that happened twice": r.twice == 0,
		"writes that were lost":      r.lost == 0,
		"requests that ended late":   r.late == 0,
		"there are requests of each": d.reads > 100 && d.writes > 100 && r.settled.requests() > 100,
		"calls when it is over":      r.settled.amplification() < 1.05,
	} {
		if !ok {
			t.Errorf("not as promised: %s", what)
		}
	}
	for code, n := range d.codes {
		if !slices.Contains(row.codes, code) {
			t.Errorf("%d requests failed with %v", n, code)
		}
	}
}

// render returns docs/chaos.md.
func render(table []row, results map[string]*result) string {
	var b strings.Builder
	b.WriteString(`# What faults do to users

The test runs a chain of five services, each with the [whole stack](stack.md) on both sides. Users make 50 requests a second with a deadline of one
second; every fifth is a write with an idempotency key. The first service answers a read with a default if the second one fails. A fault lasts
15 seconds. The run is in virtual time, over connections in memory; TLS and the bbolt file are real.

Each attempt has a timeout of 200 ms (stack.AttemptTimeout), and UNAVAILABLE and DEADLINE_EXCEEDED are retried. breaker.OpenFor is 2 s,
health.ConnectWithin 1 s, health.DetectWithin 12 s, and service 5 has 8 places. With the defaults, recovery takes some seconds longer.

In every row, no write is executed twice, no successful write is lost, and no request ends more than 100 ms after its deadline.

| fault | what users are promised | real replies | reads served | writes | leaf calls per request | all real replies again after |
|---|---|---|---|---|---|---|
`)
	percent := func(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }
	for _, row := range table {
		r := results[row.name]
		d := &r.during
		fmt.Fprintf(&b, "| **%s**: %s | %s | %s | %s | %s | %.3f | %v |\n", row.name, row.what, row.promise,
			percent(d.real()), percent(d.served()), percent(d.written()), d.amplification(), r.recovered)
	}
	b.WriteString(`
*Real replies* are requests that the last service has served, *reads served* include the defaults of the fallback, and *writes* are those that
succeeded, all of the requests made during the fault. *Leaf calls* are calls that arrive at service 5. *All is well* means that 99 % of the requests
get a real reply. The last column counts whole seconds from the end of the fault.

The test writes this table. It checks the shares, the number of calls, the codes of failures and the time of recovery that are promised, but not
that something happens "at once":

` + "```sh\ngo test ./internal/e2e/chaos -args -write\n```\n" + `
See [failures.md](failures.md) for which part of the stack handles which kind of failure.
`)
	return b.String()
}
