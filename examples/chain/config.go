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

// stack is what the services are put together with.
type stack string

const (
	native   stack = "native"   // grpc-go, with its own retries
	hopbound stack = "hopbound" // grpc-go, with Hopbound on every client and server
)

type config struct {
	depth    int
	attempts int
	requests int
	fail     []float64 // shares of the last service's calls that fail
	stacks   []stack
	timeout  time.Duration // how long a user waits
	json     bool
	ui       string // the address of the live page; empty is none
	otlp     string // that of a backend for spans and metrics; empty is none
}

// Bounds of the flags. mostAttempts is grpc-go's own.
const (
	mostDepth     = 10
	mostAttempts  = 5
	mostRequests  = 1_000_000
	mostLeafCalls = 5_000_000
)

// parse reads the flags. It writes their help to usage, if that is asked for,
// and returns everything else that is wrong as an error of one line.
func parse(args []string, usage io.Writer) (*config, error) {
	flags := flag.NewFlagSet("chain", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var (
		cfg    config
		depth  = flags.Int("depth", 5, "services in the chain, 1 to 10")
		tries  = flags.Int("attempts", 3, "attempts of each call, the first one included, 1 to 5")
		count  = flags.Int("requests", 500, "requests of users for each line of the table")
		fail   = flags.String("fail", "100%,10%,0%", "shares of the last service's calls that fail: 10% or 0.1, separated by commas")
		stacks = flags.String("stack", "both", "what to run: native, hopbound or both")
		wait   = flags.Duration("timeout", 30*time.Second, "how long a user waits")
		asJSON = flags.Bool("json", false, "print JSON instead of the table and the trace")
		ui     = flags.String("ui", "", "keep both stacks under load and serve a live page at this address, such as 127.0.0.1:8080")
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
		name     string
		is, most int
	}{{"depth", *depth, mostDepth}, {"attempts", *tries, mostAttempts}, {"requests", *count, mostRequests}} {
		if v.is < 1 || v.is > v.most {
			return nil, fmt.Errorf("-%s is %d, must be 1 to %d", v.name, v.is, v.most)
		}
	}
	cfg.ui, cfg.otlp = *ui, *otlp
	if err := cfg.addresses(flags, wait); err != nil {
		return nil, err
	}
	if *wait <= 0 {
		return nil, fmt.Errorf("-timeout is %v, must be more than nothing", *wait)
	}
	cfg.depth, cfg.attempts, cfg.requests, cfg.timeout, cfg.json = *depth, *tries, *count, *wait, *asJSON
	switch *stacks {
	case "native", "hopbound":
		cfg.stacks = []stack{stack(*stacks)}
	case "both":
		cfg.stacks = []stack{native, hopbound}
	default:
		return nil, fmt.Errorf("-stack is %q, must be native, hopbound or both", *stacks)
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

// addresses checks -ui and -otlp. The live page leaves no room for some other
// flags, and users wait for a shorter time there.
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
			return fmt.Errorf("-%s is %q, must be host:port", v.name, v.address)
		}
	}
	if c.ui == "" {
		return nil
	}
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for _, name := range []string{"fail", "requests", "json", "stack"} {
		if set[name] {
			return fmt.Errorf("-ui and -%s exclude each other: the page has both stacks, and buttons for what fails", name)
		}
	}
	if !set["timeout"] {
		*wait = liveTimeout
	}
	return nil
}

// parseShare reads "10%", "10" or "0.1". A number of at most 1 is a share, and a
// greater one a percentage.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 100 {
		return 0, fmt.Errorf("-fail has %q, must be 0%% to 100%%, or 0 to 1", text)
	}
	if percent || v > 1 {
		v /= 100
	}
	return v, nil
}

// affordable returns an error if the native stack would take too long: that is
// the very thing this command is about.
func (c *config) affordable() error {
	for _, s := range c.stacks {
		for _, fail := range c.fail {
			calls := float64(c.requests) * math.Pow(1+fail*float64(c.attempts-1), float64(c.depth))
			if s == native && calls > mostLeafCalls {
				return fmt.Errorf("-stack native would make about %.0f million calls of the last service: ask for less -depth, -attempts or -requests", calls/1e6)
			}
		}
	}
	return nil
}
