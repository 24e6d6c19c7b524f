package dashboards_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/services"
	"go.yaml.in/yaml/v3"
)

func TestRulesDoWhatTheirTestsSay(t *testing.T) {
	t.Parallel()
	_, promtool := services.Prometheus(t)
	for _, args := range [][]string{
		{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml", "quiet_test.yml"}, {"check", "config", "prometheus.yml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Each alert has a test that makes it fire, and a quiet hour in which it does not.
func TestEachAlertIsTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := os.ReadFile("quiet_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if fires := regexp.MustCompile(`alertname: ` + r.Alert + `\n\s+exp_alerts:\n`); r.Alert != "" && !fires.Match(text) {
			t.Errorf("no test has %s fire", r.Alert)
		}
		if r.Alert != "" && !bytes.Contains(quiet, []byte("alertname: "+r.Alert+", exp_alerts: []")) {
			t.Errorf("no quiet hour evaluates %s", r.Alert)
		}
	}
}

type rule struct{ Record, Alert, Expr string }

func rules(t *testing.T) []rule {
	t.Helper()
	text, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// A Prometheus that scrapes the example while its leaf fails in each way has data
// for every panel of the dashboard; and the dashboard and the rules ask for what
// the code exports, and leave nothing of it out.
func TestPrometheusHasDataForEveryPanel(t *testing.T) {
	t.Parallel()
	prometheus, _ := services.Prometheus(t)
	chain := startChain(t)
	p := startPrometheus(t, prometheus, chain, "rules.yml", "")
	faults := []string{"failing", "slow", "lost", "down", "healthy"}
	missing := queries(t)
	deadline := time.Now().Add(2 * time.Minute)
	for round := 0; len(missing) > 0 && time.Now().Before(deadline); round++ {
		if round%8 == 0 { // some seconds of each
			p.post(chain + "/fault/" + faults[round/8%len(faults)])
		}
		time.Sleep(500 * time.Millisecond) // as often as it is worth asking
		for name, query := range missing {
			if p.hasData(query) {
				delete(missing, name)
			}
		}
	}
	for name, query := range missing {
		t.Errorf("%s has no data: %s", name, query)
	}
	compareNames(t, p.get(chain+"/metrics"))
}

// queries returns the queries of the dashboard, by their panels, for all hops and
// methods.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "20s", "$namespace", "hopbound", "$start", ".*", "$service", ".*", "$method", ".*").Replace(q.Expr)
			all[fmt.Sprintf("panel %d, %s, %s", p.ID, p.Title, q.RefID)] = expr
		}
	}
	return all
}

// compareNames compares the names of metrics and labels that the dashboard and the
// rules use with those that are exported.
func compareNames(t *testing.T, exported string) {
	t.Helper()
	// What the example has no series of: nothing in it is malformed, crashes, lies, is installed twice or retried
	// by another interceptor.
	known := map[string]bool{
		"hopbound_malformed_total": true, "hopbound_client_overreports_total": true,
		"hopbound_idempotency_store_lost_leases_total": true, "hopbound_idempotency_store_taken_over_total": true,
		"hopbound_installed_twice_total": true, "hopbound_client_other_retries_total": true,
	}
	labels := map[string]bool{"le": true, "hopbound_header": true, "hopbound_idempotency_cause": true, "alertname": true, "alertstate": true}
	for line := range strings.Lines(exported) {
		m := regexp.MustCompile(`^([a-z]\w*)(?:\{(.*)\})? `).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		known[m[1]] = true
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = true
		}
	}
	var asked []string
	for _, expr := range queries(t) {
		asked = append(asked, expr)
	}
	for _, r := range rules(t) {
		asked = append(asked, r.Expr)
	}
	text := strings.Join(asked, "\n")
	used := map[string]bool{}
	for _, name := range regexp.MustCompile(`\b(?:hopbound|grpc)_\w+`).FindAllString(text, -1) {
		if used[name] = true; !known[name] && !labels[name] {
			t.Errorf("%s is asked for and not exported", name)
		}
	}
	for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(text, -1) {
		for l := range strings.SplitSeq(by[1], ",") {
			if !labels[strings.TrimSpace(l)] {
				t.Errorf("no series has the label %s", l)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "hopbound_") && !used[name] && !used[base+"_bucket"] && !used[base+"_sum"] && !used[base+"_count"] {
			t.Errorf("%s is exported, and neither the dashboard nor the rules show it", name)
		}
	}
}
