package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// show prints what the options ask for.
func (r *reader) show(out io.Writer, o *options) error {
	s := r.store
	if s.leftOut > 0 {
		r.report.notef("%d spans, because the limit for all spans is reached", s.leftOut)
	}
	switch {
	case s.read == 0:
		return errors.New("there are no spans")
	case len(s.requests) == 0:
		return fmt.Errorf("no trace has an id that begins with %q", s.prefix)
	case s.prefix != "" && len(s.requests) > 1:
		return fmt.Errorf("%d traces have an id that begins with %q", len(s.requests), s.prefix)
	}
	hops, fixed, list := hopTable{}, repairs{}, selection{limit: r.limits.list}
	if o.selects() {
		list.limit = r.limits.selected
	}
	tooMany := 0
	for i := range s.requests {
		spans, more := s.spans(&s.requests[i], r.limits.request)
		tooMany += more
		if len(spans) == 0 {
			continue
		}
		hops.add(spans)
		fixed.add(spans)
		if sum := summarize(i, spans); o.matches(&sum, spans) {
			list.add(sum)
		}
	}
	if tooMany > 0 {
		r.report.notef("%d spans of requests whose spans need more than %d bytes", tooMany, r.limits.request)
	}
	list.cut()
	if len(list.best) == 0 {
		return fmt.Errorf("no request %s", o.describe("has"))
	}
	if !o.selects() {
		if err := r.showHops(out, hops, &fixed); err != nil {
			return err
		}
	}
	if o.trace == "" {
		if err := r.showList(out, o, &list); err != nil {
			return err
		}
	}
	return r.showTree(out, &list.best[0])
}

// showHops prints the counts of all requests.
func (r *reader) showHops(out io.Writer, hops hopTable, fixed *repairs) error {
	fmt.Fprintf(out, "%s\n\n", tree.Plural(int64(len(r.store.requests)), "request"))
	leftOut, err := hops.write(out, r.limits.hops)
	if leftOut > 0 {
		r.report.notef("%d hops beyond the first %d", leftOut, r.limits.hops)
	}
	if events := fixed.String(); events != "" {
		fmt.Fprintf(out, "\nevents: %s\n", tree.Printable(events))
	}
	fmt.Fprintln(out)
	return err
}

// timeFormat is how the start of a request is printed, in UTC.
const timeFormat = "2006-01-02 15:04:05.000"

// showList prints the selected requests.
func (r *reader) showList(out io.Writer, o *options, list *selection) error {
	title := countOf(list.failed, list.matched, "request") + " failed. "
	if list.failed > 0 {
		title += "These come first, and then the slowest:"
	} else {
		title += "The slowest:"
	}
	if o.selects() {
		title = fmt.Sprintf("%s %s:", countOf(list.matched, len(r.store.requests), "request"), o.describe("have"))
	}
	fmt.Fprintf(out, "%s\n\n", tree.Printable(title))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "started (UTC)\ttook\tservice\tmethod\tstatus\tattempts\ttrace")
	for i := range list.best {
		s := &list.best[i]
		note := ""
		if !s.complete {
			note = " (its root is missing)"
		}
		cells := []string{
			s.began.UTC().Format(timeFormat), tree.Round(s.took).String(), cmp.Or(s.service, "(no service.name)"), s.method,
			s.status, strconv.Itoa(s.attempts), r.store.requests[s.number].name() + note,
		}
		for i, cell := range cells {
			cells[i] = tree.Printable(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if more := list.matched - len(list.best); more > 0 {
		shown := 0
		for i := range list.best {
			if list.best[i].failed {
				shown++
			}
		}
		fmt.Fprintf(out, "(%d more", more)
		if n := list.failed - shown; n > 0 {
			fmt.Fprintf(out, ", %d of them failed", n)
		}
		fmt.Fprintln(out, ")")
	}
	fmt.Fprintln(out)
	return nil
}

func countOf(part, whole int, noun string) string {
	return fmt.Sprintf("%d of %s", part, tree.Plural(int64(whole), noun))
}

// showTree prints one request: what failed, what took the time, and the tree.
func (r *reader) showTree(out io.Writer, s *summary) error {
	req := &r.store.requests[s.number]
	spans, _ := r.store.spans(req, r.limits.request)
	fmt.Fprintf(out, "Request %s: %s after %v, %s, started at %s UTC\n", req.name(), tree.Printable(s.status), tree.Round(s.took),
		tree.Plural(int64(s.attempts), "attempt"), s.began.UTC().Format(timeFormat))
	t := tree.New(spans)
	if cause := t.Cause(); cause != "" {
		fmt.Fprintf(out, "cause:  %s\n", tree.Printable(cause))
	}
	if shares := t.Shares(); len(shares) > 0 {
		fmt.Fprintf(out, "time:   %s\n", tree.Printable(shareText(shares, s.took)))
	}
	var fixed repairs
	fixed.add(spans)
	if events := fixed.String(); events != "" {
		fmt.Fprintf(out, "events: %s\n", tree.Printable(events))
	}
	fmt.Fprintln(out)
	deep, err := t.Write(out)
	if deep > 0 {
		r.report.notef("%d spans deeper than %d levels", deep, tree.MaxDepth)
	}
	if req.leftOut > 0 {
		r.report.notef("%d of these are spans of request %s, whose tree is incomplete", req.leftOut, req.name())
	}
	return err
}

// maxShares is the number of parts of the time that are listed.
const maxShares = 3

// shareText lists what took most of a request's time.
func shareText(shares []tree.Share, took time.Duration) string {
	shares = shares[:min(len(shares), maxShares)]
	parts := make([]string, 0, len(shares))
	for _, s := range shares {
		parts = append(parts, fmt.Sprintf("%s (%.0f%%) %s", tree.Short(s.Took), 100*float64(s.Took)/float64(max(took, 1)), s.Of)) //nolint:mnd // percent
	}
	return strings.Join(parts, "; ")
}
