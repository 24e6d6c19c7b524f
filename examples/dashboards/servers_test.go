package dashboards_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

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

// startPrometheus starts a Prometheus with some rules that scrapes a target each second, and sends alerts
// to an Alertmanager if its address is not empty.
func startPrometheus(t *testing.T, binary, target, rules, alertmanager string) *server {
	t.Helper()
	dir := t.TempDir()
	here, err := filepath.Abs(rules)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: chain, static_configs: [{targets: [%q]}]}]\n",
		here, strings.TrimPrefix(target, "http://"))
	if alertmanager != "" {
		config += fmt.Sprintf("alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}\n", alertmanager)
	}
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	run(t, exec.CommandContext(t.Context(), binary, "--config.file="+path, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=error"))
	s := &server{t: t, address: "http://" + address}
	s.awaitReady(s.address + "/-/ready")
	return s
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String()
}

// awaitReady waits until a server answers well.
func (s *server) awaitReady(address string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		answer, err := s.ask(http.MethodGet, address)
		if err == nil && answer != "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is not ready: %v", address, err)
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
