package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency/storetest/services"
)

// screen is what a command prints while it runs.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// The commands of the runbook, run one after the other on a stuck payment, make the payment once.
func TestRunbookOfAStuckKey(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	if _, err := exec.LookPath("psql"); err != nil {
		if os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" {
			t.Fatal("psql is not installed, and HOPBOUND_REQUIRE_SERVICES is set")
		}
		t.Skip("psql is not installed: install it to run this test")
	}
	services.Postgres(t) // it skips the test if they are missing; the command has its own
	services.Redis(t)
	page, err := os.ReadFile("../../docs/runbooks/stuck-key.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("set -eu\n")
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(page, -1) {
		script.Write(block[1])
	}

	ctx, interrupt := context.WithCancel(t.Context())
	out := &screen{more: make(chan struct{}, 1)}
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"-stuck"}, out, &log) }()
	for !strings.Contains(out.String(), "An interrupt") {
		select {
		case <-out.more:
		case code := <-ended:
			t.Fatalf("exit %d\n%s", code, log.String())
		}
	}
	var exports strings.Builder
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "export ") {
			exports.WriteString(line)
		}
	}
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = "../.."
	cmd.Stdin = io.MultiReader(strings.NewReader(exports.String()), strings.NewReader(script.String()), strings.NewReader("echo $ORDER\n"))
	said, err := cmd.CombinedOutput()
	interrupt()
	if code := <-ended; code != 0 && !strings.Contains(log.String(), "gateway") { // one gateway was killed
		t.Errorf("exit %d\n%s", code, log.String())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	order := strings.TrimSpace(string(said[bytes.LastIndexByte(bytes.TrimSpace(said), '\n')+1:]))
	for _, want := range []string{"state               pending", "checkpoint          " + order, "order " + order + "\nstate paid", "taken_over"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
}
