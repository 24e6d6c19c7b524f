package dashboards_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/services"
)

// incidentFlag chooses incidents: go test ./examples/dashboards -run Incident -incident all
var incidentFlag = flag.String("incident", "", "incident to run, or all; one at random if empty")

// incident is a fault of the example, and how it is found.
type incident struct {
	fault  string
	fires  []string // alerts that must fire
	silent []string // alerts that must not
	cause  string   // a query that has a result because of this fault alone
	span   string   // a pattern in the trace of a request; empty if the metric is enough
}

// nothingElse are alerts that only their own fault may cause.
func nothingElse(but ...string) []string {
	all := []string{"HopboundAmplification", "HopboundTargetUnreachable", "HopboundStoreFailing", "HopboundStoreFilling", "HopboundKeyConflicts", "HopboundDishonestCallee", "HopboundInstalledTwice"}
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(but, name) })
}

// incidents are the faults that an engineer must be able to tell apart.
func incidents() map[string]incident {
	const leaf, above = `service_name="hopbound-hop3"`, `service_name="hopbound-hop2", grpc_target="leaf:///replicas"`
	return map[string]incident{
		"the leaf is down": {
			fault: "down", fires: []string{"HopboundErrorBudgetBurn", "HopboundTargetFailing", "HopboundBudgetExhausted"},
			silent: nothingElse(), cause: `hopbound:client_target_failures:ratio_rate5m{` + above + `} > 0.9 unless on () count(hopbound:client_target_failures:ratio_rate5m > 0.1) > 1`,
			span: `"the last service is down (injected by fault down)"`,
		},
		"the leaf is slow": {
			fault: "slow", fires: []string{"HopboundErrorBudgetBurn", "HopboundWastedWork"},
			silent: nothingElse(), cause: `rate(grpc_server_call_duration_seconds_sum{` + leaf + `}[15s]) / rate(grpc_server_call_duration_seconds_count{` + leaf + `}[15s]) > 0.5`,
			span: `"hopbound.deadline.late_ms":`,
		},
		"a hop stands still for two seconds": {
			fault: "stopped", silent: nothingElse(),
			cause: `histogram_quantile(0.99, sum by (service_name, le) (rate(grpc_server_call_duration_seconds_bucket{service_name=~"hopbound-hop.*"}[15s]))) > 0.8 and on (service_name) label_replace(vector(1), "service_name", "hopbound-hop2", "", "") unless on () histogram_quantile(0.99, sum by (le) (rate(grpc_server_call_duration_seconds_bucket{` + leaf + `}[15s]))) > 0.8`,
		},
		"a third of the replies is lost": {
			fault: "lossy", fires: []string{"HopboundTargetFailing"},
			silent: nothingElse(), cause: `sum(rate(hopbound_client_attempts_total{` + above + `, hopbound_decision="retried", hopbound_reached="true"}[15s])) > 0`,
			span: `"hopbound.budget.lost":`,
		},
		"users wait for too short a time": {
			fault: "hurried", fires: []string{"HopboundDeadlineHeadroomLow"},
			silent: nothingElse(), cause: `hopbound:server_deadline_headroom:p5_rate5m{service_name="hopbound-hop1"} < 0.003`,
		},
		"the target budget is used up": {
			fault: "half", fires: []string{"HopboundBudgetExhausted", "HopboundTargetFailing"},
			silent: nothingElse(), cause: `sum(rate(hopbound_client_attempts_total{` + above + `, hopbound_reason="target_tokens"}[15s])) > 0 and min(hopbound_budget_balance{` + above + `}) < 2`,
			span: `"hopbound.reason":"target_tokens"`,
		},
		"the store is down": {
			fault: "store", fires: []string{"HopboundStoreFailing"},
			silent: nothingElse("HopboundStoreFailing"), cause: `sum(rate(hopbound_idempotency_store_duration_seconds_count{hopbound_idempotency_result="error"}[15s])) > 0`,
		},
		"one key is used for different requests": {
			fault: "conflicts", fires: []string{"HopboundKeyConflicts"},
			silent: append(nothingElse("HopboundKeyConflicts"), "HopboundTargetFailing"),
			cause:  `sum(rate(hopbound_idempotency_calls_total{hopbound_idempotency_outcome="reused"}[15s])) > 0`,
		},
		"one replica fails": {
			fault: "replica", fires: []string{"HopboundTargetFailing"},
			silent: nothingElse(), cause: `hopbound:client_target_failures:ratio_rate5m{` + above + `} < 0.7 and hopbound:client_target_failures:ratio_rate5m{` + above + `} > 0.1`,
			span: `"network.peer.port":`,
		},
		"a callee misreports": {
			fault: "dishonest", fires: []string{"HopboundDishonestCallee"},
			silent: append(nothingElse("HopboundDishonestCallee"), "HopboundTargetFailing"),
			cause:  `sum(rate(hopbound_client_overreports_total{` + above + `}[15s])) > 0`,
		},
	}
}

// A real Prometheus and a real Alertmanager watch the example, in shortened time, first while it is
// healthy and then under a fault. The right alerts fire and no others, the cause can be seen, and there is
// at most one page.
func TestIncidentIsFoundByItsAlertsAndItsCause(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("what runs here is built without the race detector, and its time is real")
	}
	prometheus, _ := services.Prometheus(t)
	alertmanager := services.Alertmanager(t)
	names := slices.Sorted(maps.Keys(incidents()))
	switch *incidentFlag {
	case "all":
	case "":
		names = []string{names[rand.IntN(len(names))]}
		t.Logf("the incident of this run: -incident %q", names[0])
	default:
		names = []string{*incidentFlag}
	}
	for _, name := range names {
		i, ok := incidents()[name]
		if !ok {
			t.Fatalf("-incident %q: no such incident; there are %q", name, slices.Sorted(maps.Keys(incidents())))
		}
		t.Run(name, func(t *testing.T) {
			chain := startChain(t)
			pages := receivePages(t)
			p := startPrometheus(t, prometheus, chain, shortened(t), startAlertmanager(t, alertmanager, pages.address))
			p.awaitSilence()
			p.post(chain + "/fault/" + i.fault)
			p.expectIncident(chain, &i)
			p.expectSilence(5, i.silent)
			if got := pages.critical(); got > 1 {
				t.Errorf("%d pages for one incident", got)
			}
		})
	}
}

// shortened returns the rules with windows and delays of seconds, in a file.
func shortened(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	short := map[string]string{"5m": "15s", "15m": "20s", "30m": "20s", "1h": "25s", "6h": "30s", "3d": "35s"}
	rules := regexp.MustCompile(`\[(\d+[mhd])\]`).ReplaceAllStringFunc(string(text), func(window string) string {
		return "[" + short[strings.Trim(window, "[]")] + "]"
	})
	rules = regexp.MustCompile(`for: \d+[mh]`).ReplaceAllString(rules, "for: 3s")
	rules = strings.ReplaceAll(rules, "interval: 30s", "interval: 1s")
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// expectIncident waits until all alerts of an incident fire and its cause is seen.
func (s *server) expectIncident(chain string, i *incident) {
	s.t.Helper()
	missing := map[string]bool{"the cause: " + i.cause: true, "the span: " + i.span: i.span != ""}
	for _, alert := range i.fires {
		missing[alert] = true
	}
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		s.expectSilence(1, i.silent)
		for _, alert := range s.firing() {
			delete(missing, alert)
		}
		if s.hasData(i.cause) {
			delete(missing, "the cause: "+i.cause)
		}
		if i.span == "" || s.traceHas(chain, i.span) {
			delete(missing, "the span: "+i.span)
		}
		if len(missing) == 0 {
			return
		}
	}
	s.t.Errorf("not seen: %q; firing: %q", slices.Sorted(maps.Keys(missing)), s.firing())
}

// awaitSilence waits until no alert has fired for ten seconds. A machine that stands still while the example
// starts lets users' calls fail.
func (s *server) awaitSilence() {
	s.t.Helper()
	silent := 0
	for range 120 {
		if silent++; len(s.firing()) > 0 {
			silent = 0
		}
		if silent == 20 {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	s.t.Fatalf("the example is healthy, and %q fire", s.firing())
}

// expectSilence looks a number of times, half a second apart, whether alerts are silent.
func (s *server) expectSilence(times int, names []string) {
	s.t.Helper()
	for n := range times {
		if n > 0 {
			time.Sleep(500 * time.Millisecond)
		}
		for _, alert := range s.firing() {
			if slices.Contains(names, alert) {
				s.t.Fatalf("%s fires; all that fire: %q", alert, s.firing())
			}
		}
	}
}

// firing returns the names of the alerts that fire.
func (s *server) firing() (names []string) {
	s.t.Helper()
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string            `json:"state"`
				Labels map[string]string `json:"labels"`
			} `json:"alerts"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(s.get(s.address+"/api/v1/alerts")), &answer); err != nil {
		s.t.Fatal(err)
	}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// traceHas reports whether a pattern is in the trace of one of the requests that the page lists.
func (s *server) traceHas(chain, pattern string) bool {
	s.t.Helper()
	for _, id := range s.requests(chain) {
		text, err := s.ask(http.MethodGet, chain+"/trace/hopbound/"+id)
		if err == nil && strings.Contains(text, pattern) {
			return true
		}
	}
	return false
}

// requests returns the identifiers of the requests that the page lists.
func (s *server) requests(chain string) (ids []string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, chain+"/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	_ = answer.Body.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	var page struct {
		Traces map[string][]struct {
			ID string `json:"id"`
		} `json:"traces"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &page); err != nil {
		s.t.Fatal(err)
	}
	for _, t := range page.Traces["hopbound"] {
		ids = append(ids, t.ID)
	}
	return ids
}

// pager counts what Alertmanager sends.
type pager struct {
	address string
	mu      sync.Mutex
	groups  map[string]bool // of critical alerts that fire
}

func (p *pager) critical() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.groups)
}

// receivePages starts a receiver of notifications.
func receivePages(t *testing.T) *pager {
	t.Helper()
	p := &pager{groups: map[string]bool{}}
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var sent struct {
			GroupKey string `json:"groupKey"`
			Status   string `json:"status"`
		}
		if json.NewDecoder(r.Body).Decode(&sent) == nil && r.URL.Path == "/pager" && sent.Status == "firing" {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.groups[sent.GroupKey] = true
		}
	}))
	t.Cleanup(receiver.Close)
	p.address = receiver.Listener.Addr().String()
	return p
}

// startAlertmanager starts an Alertmanager with the example's configuration that sends to a receiver.
func startAlertmanager(t *testing.T, binary, receiver string) string {
	t.Helper()
	text, err := os.ReadFile("alertmanager.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.ReplaceAll(string(text), "127.0.0.1:9099", receiver)
	config = strings.NewReplacer("group_wait: 30s", "group_wait: 1s", "group_interval: 5m", "group_interval: 1s").Replace(config)
	dir := t.TempDir()
	path := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	run(t, exec.CommandContext(t.Context(), binary, "--config.file="+path, "--storage.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--cluster.listen-address=", "--log.level=error"))
	(&server{t: t}).awaitReady("http://" + address + "/-/ready")
	return address
}
