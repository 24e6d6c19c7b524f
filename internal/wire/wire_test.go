package wire_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"testing"

	"github.com/hopbound/hopbound/internal/wire"
)

// vector is one case of the test vectors that any language can run.
type vector struct {
	Name      string                     `json:"name"`
	Value     string                     `json:"value"`
	Malformed bool                       `json:"malformed"`
	Canonical bool                       `json:"canonical"`
	Fields    map[string]json.RawMessage `json:"fields"`
}

func vectors(tb testing.TB, key string) []vector {
	tb.Helper()
	data, err := os.ReadFile("../../proto/hopbound/v1/testdata/wire.json")
	if err != nil {
		tb.Fatal(err)
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		tb.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(file[key], &out); err != nil {
		tb.Fatal(err)
	}
	if len(out) == 0 {
		tb.Fatalf("no vectors for %s", key)
	}
	return out
}

// contextFields and reportFields show a value as the vectors write it.
func contextFields(c wire.Context) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	if c.HasSent {
		out["s"] = long(c.Sent)
		out["c"] = json.RawMessage(fmt.Sprintf("\"%016x\"", c.ClockID))
	}
	if c.HasDeadline {
		out["d"] = long(c.Deadline)
	}
	if c.HasBudget {
		out["b"] = number(int64(c.Budget))
	}
	if c.Attempt > 0 {
		out["a"] = number(int64(c.Attempt))
	}
	if c.Keyed {
		out["k"] = number(1)
	}
	if c.Level > 0 {
		out["l"] = number(int64(c.Level))
	}
	return out
}

func reportFields(r wire.Report) map[string]json.RawMessage {
	out := map[string]json.RawMessage{"u": number(int64(r.Used))}
	if r.HasElapsed {
		out["e"] = long(r.Elapsed)
	}
	if r.NoTokens {
		out["n"] = number(1)
	}
	if r.HasKeeps {
		out["k"] = json.RawMessage(fmt.Sprintf("%q", fmt.Sprintf("%016x", r.Keeps)))
	}
	return out
}

func number(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

// long shows a number of 64 bits, which is a string because many JSON parsers read numbers as float64.
func long(n int64) json.RawMessage { return json.RawMessage(strconv.Quote(strconv.FormatInt(n, 10))) }

func TestVectorsOfTheWireSpecificationHold(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t, wire.ContextKey) {
		t.Run("hop-context "+v.Name, func(t *testing.T) {
			t.Parallel()
			got, ok := wire.ParseContext(v.Value)
			check(t, v, ok, contextFields(got), string(got.Append(nil)), got == wire.Context{})
		})
	}
	for _, v := range vectors(t, wire.ReportKey) {
		t.Run("hop-report "+v.Name, func(t *testing.T) {
			t.Parallel()
			got, ok := wire.ParseReport(v.Value)
			check(t, v, ok, reportFields(got), string(got.Append(nil)), got == wire.Report{})
		})
	}
}

func check(t *testing.T, v vector, ok bool, fields map[string]json.RawMessage, again string, zero bool) {
	t.Helper()
	if ok == v.Malformed {
		t.Fatalf("%q: parsed = %v, want %v", v.Value, ok, !v.Malformed)
	}
	if v.Malformed {
		if !zero {
			t.Errorf("%q is malformed, but left something behind: %s", v.Value, fields)
		}
		return
	}
	if !reflect.DeepEqual(fields, v.Fields) {
		t.Errorf("%q: got %s, want %s", v.Value, fields, v.Fields)
	}
	if v.Canonical && again != v.Value {
		t.Errorf("appended %q, want %q", again, v.Value)
	}
}

func TestWhatIsAppendedAlwaysParses(t *testing.T) {
	t.Parallel()
	wild := wire.Context{
		Deadline: -5, HasDeadline: true, Sent: math.MaxInt64, HasSent: true,
		ClockID: math.MaxUint64, Budget: math.MaxInt, HasBudget: true, Attempt: math.MaxInt,
	}
	got, ok := wire.ParseContext(string(wild.Append(nil)))
	want := wild
	want.Deadline, want.Budget, want.Attempt = 0, wire.MaxCount, wire.MaxCount
	if !ok || got != want {
		t.Errorf("context: got %+v, %v; want %+v", got, ok, want)
	}
	report := wire.Report{Used: math.MinInt, Elapsed: -1, HasElapsed: true, NoTokens: true}
	gotReport, ok := wire.ParseReport(string(report.Append(nil)))
	if want := (wire.Report{HasElapsed: true, NoTokens: true}); !ok || gotReport != want {
		t.Errorf("report: got %+v, %v; want %+v", gotReport, ok, want)
	}
}

func TestParsingAndAppendingDoNotAllocate(t *testing.T) {
	c := wire.Context{
		Deadline: math.MaxInt64, HasDeadline: true, Sent: math.MaxInt64, HasSent: true,
		ClockID: math.MaxUint64, Budget: 3, HasBudget: true, Attempt: 1,
	}
	r := wire.Report{Used: 1, Elapsed: math.MaxInt64, HasElapsed: true, NoTokens: true}
	text, report := string(c.Append(nil)), string(r.Append(nil))
	buf := make([]byte, 0, wire.MaxLen)
	allocs := testing.AllocsPerRun(1000, func() {
		if _, ok := wire.ParseContext(text); !ok {
			t.Error("context did not parse")
		}
		if _, ok := wire.ParseReport(report); !ok {
			t.Error("report did not parse")
		}
		buf = c.Append(buf[:0])
		buf = r.Append(buf[:0])
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}

// FuzzParseContext checks that a value is either refused whole or says
// something that survives another round over the wire.
func FuzzParseContext(f *testing.F) {
	for _, v := range vectors(f, wire.ContextKey) {
		f.Add(v.Value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, ok := wire.ParseContext(value)
		if !ok {
			if c != (wire.Context{}) {
				t.Fatalf("%q was refused but gave %+v", value, c)
			}
			return
		}
		if len(value) > wire.MaxLen || c.Budget < 0 || c.Budget > wire.MaxCount ||
			c.Attempt < 0 || c.Attempt > wire.MaxCount || c.Deadline < 0 || c.Sent < 0 {
			t.Fatalf("%q gave %+v", value, c)
		}
		again, ok := wire.ParseContext(string(c.Append(nil)))
		if !ok || again != c {
			t.Fatalf("%q gave %+v, and after another round %+v, %v", value, c, again, ok)
		}
	})
}

func FuzzParseReport(f *testing.F) {
	for _, v := range vectors(f, wire.ReportKey) {
		f.Add(v.Value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r, ok := wire.ParseReport(value)
		if !ok {
			if r != (wire.Report{}) {
				t.Fatalf("%q was refused but gave %+v", value, r)
			}
			return
		}
		if len(value) > wire.MaxLen || r.Used < 0 || r.Used > wire.MaxCount || r.Elapsed < 0 {
			t.Fatalf("%q gave %+v", value, r)
		}
		again, ok := wire.ParseReport(string(r.Append(nil)))
		if !ok || again != r {
			t.Fatalf("%q gave %+v, and after another round %+v, %v", value, r, again, ok)
		}
	})
}
