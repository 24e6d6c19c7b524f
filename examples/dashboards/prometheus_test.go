package dashboards_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/internal/services"
	"go.yaml.in/yaml/v3"
)

func TestRulesDoWhatTheirTestsSay(t *testing.T) {
	t.Parallel()
	_, promtool := services.Prometheus(t)
	for _, args := range [][]string{
		{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}, {"check", "config", "prometheus.yml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Each alert has a test that makes it fire.
func TestEachAlertIsTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if fires := regexp.MustCompile(`alertname: ` + r.Alert + `\n\s+exp_alerts:\n`); r.Alert != "" && !fires.Match(text) {
			t.Errorf("no test has %s fire", r.Alert)
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
	p := startPrometheus(t, prometheus, chain)
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

// startChain builds and runs the example, and returns its address.
func startChain(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "chain")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../chain").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	command := exec.CommandContext(t.Context(), binary, "-ui", "127.0.0.1:0", "-depth", "3")
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, command)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`http://[\d.:]+`).FindString(line)
}

// run starts a command, and interrupts it when the test ends.
func run(t *testing.T, command *exec.Cmd) {
	t.Helper()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		if err := command.Wait(); err != nil && t.Failed() {
			t.Logf("%s: %v\n%s", command.Path, err, stderr.String())
		}
	})
}

// server is a Prometheus under test.
type server struct {
	t       *testing.T
	address string
}

func startPrometheus(t *testing.T, binary, target string) *server {
	t.Helper()
	dir := t.TempDir()
	here, err := filepath.Abs("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: chain, static_configs: [{targets: [%q]}]}]\n",
		here, strings.TrimPrefix(target, "http://"))
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // so that Prometheus can have the port
		t.Fatal(err)
	}
	run(t, exec.CommandContext(t.Context(), binary, "--config.file="+path, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=error"))
	s := &server{t: t, address: "http://" + address}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		answer, err := s.ask(http.MethodGet, s.address+"/-/ready")
		if err == nil && answer != "" {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("Prometheus is not ready: %v", err)
		}
	}
}

// ask returns the body of a good answer, or an error.
func (s *server) ask(method, address string) (string, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, address, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}

func (s *server) get(address string) string {
	s.t.Helper()
	text, err := s.ask(http.MethodGet, address)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *server) post(address string) {
	s.t.Helper()
	if _, err := s.ask(http.MethodPost, address); err != nil {
		s.t.Fatal(err)
	}
}

// hasData reports whether a query has a value that is a number.
func (s *server) hasData(query string) bool {
	s.t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	text := s.get(s.address + "/api/v1/query?query=" + url.QueryEscape(query))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			return true
		}
	}
	return false
}
