// Command hopbound-methods lists the gRPC methods that nothing declares safe to retry: they have no
// idempotency_level and no policy. Once a server may have seen a call of such a method, Hopbound does not
// retry the call.
//
//	hopbound-methods shop.binpb
//	hopbound-methods -server shop.example.com:443
//	hopbound-methods -server localhost:8080 -plaintext -policy service-config.json -all
//	buf build -o - | hopbound-methods -
//
// The exit code is 0 if all methods are declared, 1 if some are not, and 2 if the flags are wrong or the
// methods cannot be read. See hopbound-methods -h and docs/policies.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// The exit codes, other than 0.
const (
	exitUndeclared = 1
	exitFailed     = 2
)

const usage = `hopbound-methods lists the gRPC methods that nothing declares safe to retry.

Usage: hopbound-methods [flags] file...
       hopbound-methods [flags] -server host:port

A file is a descriptor set, in binary or JSON; - is standard input. To write one:
  protoc -I proto --descriptor_set_out=shop.binpb shop/v1/shop.proto
  buf build -o shop.binpb

A method is declared if one of these is set for it:
  - idempotency_level
  - in option (hopbound.v1.method): retry, hedge, or a field of idempotency
  - in the service config of -policy: retryPolicy or hedgingPolicy
The command cannot see policies that are set in Go code.

Exit codes: 0 all methods are declared; 1 some are not; 2 wrong flags, or a failure.

Flags, before or after the files:
`

// options are the flags.
type options struct {
	files              []string
	server, ca, policy string
	plaintext          bool
	timeout            time.Duration
	all, suggest, json bool
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run runs the command and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("hopbound-methods", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.server, "server", "", "`host:port` of a server with server reflection, v1 or v1alpha")
	flags.BoolVar(&o.plaintext, "plaintext", false, "connect to the server without TLS")
	flags.StringVar(&o.ca, "ca", "", "PEM `file` with the certificate authorities of the server; the default is the system's")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "maximum time for reading from the server")
	flags.StringVar(&o.policy, "policy", "", "JSON `file` of a gRPC service config, as interceptors.WithServiceConfig takes it")
	flags.BoolVar(&o.all, "all", false, "list declared methods too, and those of gRPC's own services, which are not counted")
	flags.BoolVar(&o.suggest, "suggest", false, "guess from the name of each undeclared method whether it only reads")
	flags.BoolVar(&o.json, "json", false, "print one JSON object on one line")
	err := o.parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	}
	var r report
	if err == nil {
		r, err = o.examine(stdin)
	}
	if err == nil {
		err = o.print(stdout, r)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "hopbound-methods:", tree.Printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
		return exitFailed
	case r.Undeclared > 0:
		return exitUndeclared
	}
	return 0
}

// parse parses the flags before and after the files.
func (o *options) parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	for err == nil && flags.NArg() > 0 {
		o.files = append(o.files, flags.Arg(0))
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case err != nil:
		return err
	case len(o.files) == 0 && o.server == "":
		return errors.New("give the files of descriptor sets, or -server host:port (see -h)")
	case len(o.files) > 0 && o.server != "":
		return errors.New("give either files or -server, not both")
	case o.timeout <= 0:
		return errors.New("-timeout must be positive")
	}
	return nil
}

// examine reads the methods, and reports what is declared for them.
func (o *options) examine(stdin io.Reader) (report, error) {
	policies, err := readPolicies(o.policy)
	if err != nil {
		return report{}, err
	}
	var services []service
	if o.server == "" {
		services, err = readFiles(o.files, stdin)
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
		defer cancel()
		services, err = o.readServer(ctx)
	}
	if err != nil {
		return report{}, err
	}
	r := o.report(services, policies)
	if r.Total == 0 && len(r.Methods) == 0 {
		return report{}, errors.New("there are no methods other than those of gRPC's own services, such as health")
	}
	return r, nil
}
