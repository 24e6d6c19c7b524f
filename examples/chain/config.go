package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// stack names the software that makes and serves the calls.
type stack string

const (
	native   stack = "native"   // grpc-go with its own retries
	hopbound stack = "hopbound" // grpc-go with Hopbound on every client and server
)

type config struct {
	depth    int
	replicas int // of the last service; 0 for one
	attempts int
	requests int
	fail     []float64 // shares of the last service's calls that fail
	stacks   []stack
	timeout  time.Duration // how long a user waits
	json     bool
	ui       string // address of the live page; empty for no page
	otlp     string // address of a backend for spans and metrics; empty for none
}

// The largest values of the flags. grpc-go itself allows at most maxAttempts.
const (
	maxDepth     = 10
	maxAttempts  = 5
	maxRequests  = 1_000_000
	maxLeafCalls = 5_000_000
)

// parse parses the flags. For -help it writes the flags to usage and returns flag.ErrHelp. Any other error
// is one line.
func parse(args []string, usage io.Writer) (*config, error) {
	flags := flag.NewFlagSet("chain", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var (
		cfg    config
		depth  = flags.Int("depth", 5, "number of services in the chain, 1 to 10")
		tries  = flags.Int("attempts", 3, "maximum attempts of each call, including the first, 1 to 5")
		count  = flags.Int("requests", 500, "number of users' requests for each line of the table")
		fail   = flags.String("fail", "100%,10%,0%", "shares of the last service's calls that fail, separated by commas, such as 10% or 0.1")
		stacks = flags.String("stack", "both", "stack to run: native, hopbound or both")
		wait   = flags.Duration("timeout", 30*time.Second, "how long a user waits")
		asJSON = flags.Bool("json", false, "print JSON instead of the table and the trace")
		ui     = flags.String("ui", "", "run both stacks under load and serve a live page at this address, such as 127.0.0.1:8080")
		otlp   = flags.String("otlp", "", "send spans, and with -ui metrics, to an OTLP backend at this host:port, over gRPC without TLS")
	)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(usage, "Usage of chain:")
			flags.SetOutput(usage)
			flags.PrintDefaults()
		}
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, v := range []struct {
		name       string
		value, max int
	}{{"depth", *depth, maxDepth}, {"attempts", *tries, maxAttempts}, {"requests", *count, maxRequests}} {
		if v.value < 1 || v.value > v.max {
			return nil, fmt.Errorf("-%s is %d; it must be between 1 and %d", v.name, v.value, v.max)
		}
	}
	cfg.ui, cfg.otlp = *ui, *otlp
	if err := cfg.addresses(flags, wait); err != nil {
		return nil, err
	}
	if *wait <= 0 {
		return nil, fmt.Errorf("-timeout is %v; it must be positive", *wait)
	}
	cfg.depth, cfg.attempts, cfg.requests, cfg.timeout, cfg.json = *depth, *tries, *count, *wait, *asJSON
	switch *stacks {
	case "native", "hopbound":
		cfg.stacks = []stack{stack(*stacks)}
	case "both":
		cfg.stacks = []stack{native, hopbound}
	default:
		return nil, fmt.Errorf("-stack is %q; it must be native, hopbound or both", *stacks)
	}
	for text := range strings.SplitSeq(*fail, ",") {
		share, err := parseShare(text)
		if err != nil {
			return nil, err
		}
		cfg.fail = append(cfg.fail, share)
	}
	if cfg.ui != "" {
		return &cfg, nil
	}
	return &cfg, cfg.affordable()
}

// addresses checks -ui and -otlp. With -ui, some other flags are not allowed, and the default of -timeout is
// shorter.
func (c *config) addresses(flags *flag.FlagSet, wait *time.Duration) error {
	for _, v := range []struct{ name, address string }{{"ui", c.ui}, {"otlp", c.otlp}} {
		if v.address == "" {
			continue
		}
		_, port, err := net.SplitHostPort(v.address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return fmt.Errorf("-%s is %q; it must be host:port", v.name, v.address)
		}
	}
	if c.ui == "" {
		return nil
	}
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for _, name := range []string{"fail", "requests", "json", "stack"} {
		if set[name] {
			return fmt.Errorf("-ui cannot be used with -%s: the page runs both stacks until it is stopped, and has buttons for the faults", name)
		}
	}
	if !set["timeout"] {
		*wait = liveTimeout
	}
	return nil
}

// parseShare parses "10%", "10" or "0.1". A number without % is a share if it is at most 1, and a percentage
// otherwise.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 100 {
		return 0, fmt.Errorf("-fail contains %q; a share must be 0%% to 100%%, or 0 to 1", text)
	}
	if percent || v > 1 {
		v /= 100
	}
	return v, nil
}

// affordable returns an error if the native stack would make too many calls to finish in a reasonable time.
func (c *config) affordable() error {
	for _, s := range c.stacks {
		for _, fail := range c.fail {
			calls := float64(c.requests) * math.Pow(1+fail*float64(c.attempts-1), float64(c.depth))
			if s == native && calls > maxLeafCalls {
				return fmt.Errorf("with -stack native, about %.0f million calls would reach the last service; reduce -depth, -attempts or -requests", calls/1e6)
			}
		}
	}
	return nil
}
