package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// report reports on standard error what is left out.
type report struct {
	out        io.Writer
	max        int // lines that leave may write
	reasons    int // calls to leave and notef
	unreported int // calls to leave beyond max
}

// leave reports that a part of a file is left out. The part begins in the line.
func (r *report) leave(name string, line int, err error) {
	r.reasons++
	if r.reasons > r.max {
		r.unreported++
		return
	}
	fmt.Fprintf(r.out, "%s:%d: left out: %s\n", name, line, quote(shorten(err.Error())))
}

// notef reports what is left out of the whole input.
func (r *report) notef(format string, args ...any) {
	r.reasons++
	fmt.Fprintf(r.out, "hopbound-trace: left out: %s\n", quote(fmt.Sprintf(format, args...)))
}

// close reports how many lines leave did not write.
func (r *report) close() {
	if r.unreported > 0 {
		r.notef("%d more malformed or oversized parts of the input", r.unreported)
	}
}

// quote escapes whatever could control a terminal.
func quote(text string) string { return strings.Trim(strconv.Quote(text), `"`) }
