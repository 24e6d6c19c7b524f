package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// report is what is printed. The names of the fields are stable between releases.
type report struct {
	Methods    []method `json:"methods"`    // those that are listed
	Undeclared int      `json:"undeclared"` // the number of undeclared methods
	Total      int      `json:"total"`      // the number of methods, without those of gRPC's own services
}

// report returns the report on the methods of services.
func (o *options) report(services []service, policies policies) report {
	r := report{Methods: []method{}}
	for _, s := range services {
		for _, d := range s.methods {
			m := inspect(&s, d, policies)
			if !s.ownedByGRPC() {
				r.Total++
			}
			if m.Undeclared {
				r.Undeclared++
			}
			if m.Undeclared && o.suggest {
				m.Suggestion = suggestion(d.GetName())
			}
			if m.Undeclared || o.all {
				r.Methods = append(r.Methods, m)
			}
		}
	}
	return r
}

const hint = `
Declare what a method does, in its .proto file:
  option idempotency_level = NO_SIDE_EFFECTS;  // it changes nothing
  option idempotency_level = IDEMPOTENT;       // a repeated call changes nothing more
Give the calls of any other method an idempotency key.
`

const guessed = `
The suggestions are guesses from the names. Check what a method does before you declare it.
`

// print prints the report as a table, or as JSON.
func (o *options) print(out io.Writer, r report) error {
	if o.json {
		return json.NewEncoder(out).Encode(r)
	}
	var b strings.Builder
	if len(r.Methods) > 0 {
		table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		row := func(m method) {
			cells := []string{tree.Printable(m.Method), m.Kind, m.Declared, m.Policy}
			if o.suggest {
				cells = append(cells, cmp.Or(m.Suggestion, "-"))
			}
			fmt.Fprintln(table, strings.Join(append(cells, m.CallsAre), "\t"))
		}
		row(method{Method: "METHOD", Kind: "KIND", Declared: "DECLARED", Policy: "POLICY", Suggestion: "SUGGESTION", CallsAre: "CALLS ARE"})
		for _, m := range r.Methods {
			row(m)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	switch r.Undeclared {
	case 0:
		fmt.Fprintf(&b, "0 of %d methods are undeclared.\n", r.Total)
	case 1:
		fmt.Fprintf(&b, "1 of %d methods is undeclared: its calls are not retried once a server may have seen them.\n%s", r.Total, hint)
	default:
		fmt.Fprintf(&b, "%d of %d methods are undeclared: their calls are not retried once a server may have seen them.\n%s", r.Undeclared, r.Total, hint)
	}
	if o.suggest && r.Undeclared > 0 {
		b.WriteString(guessed)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
