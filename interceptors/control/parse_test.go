package control

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc/codes"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAllFieldsAreRead(t *testing.T) {
	t.Parallel()
	got, err := parse("policies.yaml", read(t, "policies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	retry := &interceptors.RetryPolicy{
		MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable, codes.ResourceExhausted},
		Backoff: interceptors.Backoff{Base: 50 * time.Millisecond, Max: time.Second, Multiplier: 2, Jitter: interceptors.EqualJitter},
	}
	want := config{
		version: "2026-11-29.1",
		policies: interceptors.MethodPolicies{
			"":                 {Timeout: 10 * time.Second},
			"/shop.v1.Orders/": {Timeout: 2 * time.Second, AttemptTimeout: interceptors.AttemptTimeoutShared, Retry: retry},
			"/shop.v1.Orders/Get": {
				Timeout: 500 * time.Millisecond, Idempotency: interceptors.NoSideEffects,
				Hedge: &interceptors.HedgePolicy{MaxAttempts: 2, Delay: interceptors.HedgeAtP95, NonFatal: []codes.Code{codes.Unavailable}},
			},
			"/shop.v1.Orders/Place": {
				Timeout: 90 * time.Second, AttemptTimeout: 500 * time.Millisecond, Retry: retry,
				KeyRequired: true, KeyField: "request_id", WaitForReady: true,
			},
		},
		client: modes{interceptors.Enforce, map[string]interceptors.Mode{"/shop.v1.Orders/Place": interceptors.Observe, "/shop.v1.Orders/Cancel": interceptors.Observe}},
		server: modes{interceptors.Enforce, map[string]interceptors.Mode{"/shop.v1.Orders/Place": interceptors.Enforce, "/shop.v1.Orders/Cancel": interceptors.Observe}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestJSONIsReadAsYAML(t *testing.T) {
	t.Parallel()
	got, err := parse("policies.json", read(t, "policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		version: "2026-11-29.1",
		policies: interceptors.MethodPolicies{
			"/shop.v1.Orders/": {Timeout: 2 * time.Second, Retry: &interceptors.RetryPolicy{
				MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable},
				Backoff: interceptors.Backoff{Base: 50 * time.Millisecond, Multiplier: 1.5, Jitter: interceptors.NoJitter},
			}},
			"/shop.v1.Orders/Get": {Idempotency: interceptors.Idempotent, Hedge: &interceptors.HedgePolicy{NonFatal: []codes.Code{}}},
		},
		client: modes{interceptors.Observe, map[string]interceptors.Mode{}},
		server: modes{interceptors.Enforce, map[string]interceptors.Mode{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFileWithoutAVersionHasTheHashOfItsText(t *testing.T) {
	t.Parallel()
	a, errA := parse("a", []byte("mode: observe"))
	b, errB := parse("b", []byte("mode: enforce"))
	if errA != nil || errB != nil || len(a.version) != 16 || a.version == b.version {
		t.Errorf("%q %v, %q %v", a.version, errA, b.version, errB)
	}
}

func TestVersionIsTakenAsItIsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"version: 1.10": "1.10", "version: 2026-11-29": "2026-11-29", "version: 007": "007", `version: "x y"`: "x y", `{"version": 3}`: "3",
	} {
		if got, err := parse("f", []byte(text)); err != nil || got.version != want {
			t.Errorf("%s: %q %v", text, got.version, err)
		}
	}
}

// mistake is a text with the errors that it must have.
type mistake struct {
	text     string
	want     []string
	noSchema bool // the schema does not find it
}

func mistakes() map[string]mistake {
	const (
		duration = `a positive duration with a unit, such as "1.5s"`
		entry    = "must be one of attemptTimeout, hedge, idempotency, keyField, keyRequired, mode, name, retry, timeout, waitForReady"
		name     = "the name must be /service/method, /service/ or empty"
	)
	method := func(fields string) string { return "methods:\n  - name: /a.B/C\n    " + fields + "\n" }
	return map[string]mistake{
		"empty":                    {"", []string{"f:1: is empty"}, true},
		"only a comment":           {"# nothing\n", []string{"f:1: is empty"}, true},
		"null":                     {"null", []string{"f:1: must be an object"}, false},
		"a list":                   {"\n- mode: observe", []string{"f:2: must be an object"}, false},
		"a second document":        {"mode: observe\n---\nmode: enforce\n", []string{"f:2: a second document starts"}, true},
		"a control character":      {"mode: observe\n# \x01\n", []string{"f:2: has a control character, or is not UTF-8"}, true},
		"another encoding":         {"mode: observe\n\n# \xff\n", []string{"f:3: has a control character, or is not UTF-8"}, true},
		"a tab":                    {"mode: observe\nmethods:\n\t- name: /a.B/C\n", []string{"f:3: found character that cannot start any token while scanning for the next token"}, true},
		"wrong indentation":        {method("timeout: 1s\n   waitForReady: true"), []string{"f:4: did not find expected '-' indicator while parsing a block collection"}, true},
		"an unknown anchor":        {method("retry: *retry"), []string{"f:3: unknown anchor 'retry' referenced"}, true},
		"JSON without a comma":     {"{\n\t\"version\": \"1\"\n\t\"mode\": \"observe\"\n}", []string{"f:3: did not find expected ',' or '}' while parsing a flow mapping"}, true},
		"JSON that ends":           {"{\n\"mode\": \"observe\",\n\"methods\": [\n", []string{"f:4: did not find expected node content while parsing a flow node"}, true},
		"an unknown field":         {"mode: observe\nmethod: []\n", []string{`f:2: unknown field "method", must be one of $schema, methods, mode, version`}, false},
		"an unknown field, JSON":   {"{\n  \"mode\": \"observe\",\n  \"method\": []\n}", []string{`f:3: unknown field "method", must be one of $schema, methods, mode, version`}, false},
		"a field twice":            {"mode: observe\nversion: 1\nmode: observe\n", []string{"f:3: mode: is also set in line 1"}, true},
		"a field twice, JSON":      {"{\"mode\": \"observe\",\n\"mode\": \"enforce\"}", []string{"f:2: mode: is also set in line 1"}, true},
		"a key that is a list":     {"[mode]: observe\n", []string{`f:1: unknown field "", must be one of $schema, methods, mode, version`}, true},
		"merged":                   {"methods:\n  - &a {name: /a.B/C, timeout: 1s}\n  - <<: *a\n    name: /a.B/D\n    timeout: 1s\n", []string{`f:3: methods[1]: unknown field "<<", ` + entry}, true},
		"an empty version":         {"mode: observe\nversion:\n", []string{"f:2: version: must be a printable text of 1 to 100 characters"}, false},
		"a long version":           {"version: " + strings.Repeat("x", 101), []string{"f:1: version: must be a printable text of 1 to 100 characters"}, false},
		"a version of two":         {"version: [1, 2]", []string{"f:1: version: must be a printable text of 1 to 100 characters"}, false},
		"an unknown mode":          {"version: 1\nmode: Observe", []string{"f:2: mode: must be one of enforce, observe"}, false},
		"a mode of another side":   {"mode:\n  client: observe\n  proxy: observe\n", []string{`f:3: mode: unknown field "proxy", must be one of client, server`}, false},
		"an unknown mode, a side":  {"mode: {client: enforce,\n  server: on}\n", []string{"f:2: mode.server: must be one of enforce, observe"}, false},
		"methods are no list":      {"methods:\n  name: /a.B/C\n", []string{"f:2: methods: must be a list"}, false},
		"a method is no object":    {"methods:\n  - /a.B/C\n", []string{"f:2: methods[0]: must be an object"}, false},
		"no name":                  {"methods:\n  - timeout: 1s\n", []string{"f:2: methods[0]: has no name"}, false},
		"a name that is a number":  {"methods:\n  - timeout: 1s\n    name: 3\n", []string{"f:3: methods[0].name: must be a string"}, false},
		"a name without a slash":   {"methods:\n  - timeout: 1s\n    name: a.B/C\n", []string{`f:3: methods[0]: policy "a.B/C": ` + name}, false},
		"a mode without a slash":   {"methods:\n  - mode: observe\n    name: a.B/C\n", []string{`f:3: methods[0]: policy "a.B/C": ` + name}, false},
		"a name twice":             {method("timeout: 1s\n  - mode: observe\n    name: /a.B/C"), []string{`f:5: methods[1].name: "/a.B/C" is also the name of the entry in line 2`}, true},
		"a name alone":             {"methods:\n  - name: /a.B/C\n", []string{`f:2: methods[0]: "/a.B/C" has neither a policy nor a mode`}, false},
		"a mode of no name":        {"methods:\n  - name: \"\"\n    mode: observe\n", []string{"f:2: methods[0].mode: the mode of all methods is the field mode of the file"}, true},
		"an unknown policy":        {method("timout: 1s"), []string{`f:3: methods[0]: unknown field "timout", ` + entry}, false},
		"a timeout without unit":   {method("timeout: 2"), []string{"f:3: methods[0].timeout: must be " + duration}, false},
		"a timeout of nothing":     {method("timeout:"), []string{"f:3: methods[0].timeout: must be " + duration}, false},
		"a timeout of zero":        {method("timeout: 0s"), []string{"f:3: methods[0].timeout: must be " + duration}, false},
		"a negative timeout":       {method("timeout: -1s"), []string{"f:3: methods[0].timeout: must be " + duration}, false},
		"a list of timeouts":       {method("timeout:\n    - 1s"), []string{"f:4: methods[0].timeout: must be " + duration}, false},
		"a timeout that is shared": {method("timeout: shared"), []string{"f:3: methods[0].timeout: must be " + duration}, false},
		"an attempt of nothing":    {method("attemptTimeout: 0ms"), []string{"f:3: methods[0].attemptTimeout: must be " + duration + ", or shared"}, false},
		"a retry that is true":     {method("retry: true"), []string{"f:3: methods[0].retry: must be an object"}, false},
		"an unknown retry":         {method("retry: {attempts: 3}"), []string{`f:3: methods[0].retry: unknown field "attempts", must be one of backoff, codes, maxAttempts`}, false},
		"no attempts":              {method("retry: {maxAttempts: 0}"), []string{"f:3: methods[0].retry.maxAttempts: must be a positive integer"}, false},
		"half an attempt":          {method("retry: {maxAttempts: 2.5}"), []string{"f:3: methods[0].retry.maxAttempts: must be a positive integer"}, false},
		"attempts in words":        {method("retry: {maxAttempts: \"3\"}"), []string{"f:3: methods[0].retry.maxAttempts: must be a positive integer"}, false},
		"too many attempts":        {method("retry: {maxAttempts: 101}"), []string{"f:3: methods[0].retry.maxAttempts: is 101, must be at most 100"}, false},
		"no codes":                 {method("retry: {codes: []}"), []string{"f:3: methods[0].retry.codes: must not be empty"}, false},
		"a code":                   {method("retry: {codes: UNAVAILABLE}"), []string{"f:3: methods[0].retry.codes: must be a list"}, false},
		"codes that are none": {
			method("retry:\n      codes: [UNAVAILABLE, unavailable,\n        14, CANCELED]"),
			[]string{
				"f:4: methods[0].retry.codes[1]: must be the name of the gRPC status code of an error, such as UNAVAILABLE",
				"f:5: methods[0].retry.codes[2]: must be the name of the gRPC status code of an error, such as UNAVAILABLE",
				"f:5: methods[0].retry.codes[3]: must be the name of the gRPC status code of an error, such as UNAVAILABLE",
			},
			false,
		},
		"a code of success":     {method("hedge: {nonFatal: [OK]}"), []string{"f:3: methods[0].hedge.nonFatal[0]: must be the name of the gRPC status code of an error, such as UNAVAILABLE"}, false},
		"an unknown backoff":    {method("retry: {backoff: {initial: 1s}}"), []string{`f:3: methods[0].retry.backoff: unknown field "initial", must be one of base, jitter, max, multiplier`}, false},
		"a backoff of nothing":  {method("retry: {backoff: {base: 0s}}"), []string{"f:3: methods[0].retry.backoff.base: must be " + duration}, false},
		"no multiplier":         {method("retry: {backoff: {multiplier: 0}}"), []string{"f:3: methods[0].retry.backoff.multiplier: must be a positive number"}, false},
		"a multiplier in words": {method("retry: {backoff: {multiplier: \"2\"}}"), []string{"f:3: methods[0].retry.backoff.multiplier: must be a positive number"}, false},
		"a small multiplier":    {method("retry: {backoff: {multiplier: 0.5}}"), []string{"f:3: methods[0].retry.backoff.multiplier: is 0.5, must be a finite number of at least 1"}, false},
		"a backoff that shrinks": {
			method("retry: {backoff: {base: 2s, max: 1s}}"), []string{"f:3: methods[0].retry.backoff.max: is 1s, less than the base of 2s"}, true,
		},
		"an unknown jitter":                 {method("retry: {backoff: {jitter: half}}"), []string{"f:3: methods[0].retry.backoff.jitter: must be one of decorrelated, equal, full, none"}, false},
		"an unknown hedge":                  {method("hedge: {codes: []}"), []string{`f:3: methods[0].hedge: unknown field "codes", must be one of delay, maxAttempts, nonFatal`}, false},
		"a negative delay":                  {method("hedge: {delay: -1s}"), []string{`f:3: methods[0].hedge.delay: must be a duration with a unit, such as "1.5s", or p95`}, false},
		"another percentile":                {method("hedge: {delay: p99}"), []string{`f:3: methods[0].hedge.delay: must be a duration with a unit, such as "1.5s", or p95`}, false},
		"retries and hedges":                {method("retry: {}\n    hedge: {}"), []string{`f:2: methods[0]: policy "/a.B/C": fields Retry and Hedge are both set, only one may be`}, false},
		"an unknown level":                  {method("idempotency: idempotent"), []string{"f:3: methods[0].idempotency: must be one of IDEMPOTENT, NOT_IDEMPOTENT, NO_SIDE_EFFECTS"}, false},
		"a version that no header can have": {"version: \"a\\nb\"", []string{"f:1: version: must be a printable text of 1 to 100 characters"}, false},
		"an open quote":                     {"mode: observe\nversion: \"1\nmethods: []\n", []string{"f:2: found unexpected end of stream while scanning a quoted scalar"}, true},
		"no colon":                          {"mode: observe\nversion 1\nmethods: []\n", []string{"f:2: could not find expected ':' while scanning a simple key"}, true},
		"no space after the colon":          {method("timeout:1s") + "mode: observe\n", []string{"f:3: could not find expected ':' while scanning a simple key"}, true},
		"a key field of all methods":        {"methods:\n  - name: \"\"\n    keyField: id\n", []string{"f:3: methods[0].keyField: must not be set for all methods: calls whose request has no such field would fail"}, true},
		"a long name":                       {"methods:\n  - timeout: 1s\n    name: /a.B/" + strings.Repeat("x", 500) + "\n", []string{"f:3: methods[0].name: has more than 500 bytes"}, true},
		"a schema that is a number":         {"$schema: 3\n", []string{"f:1: $schema: must be a string"}, false},
		"yes":                               {method("keyRequired: yes"), []string{"f:3: methods[0].keyRequired: must be true or false"}, false},
		"true in words":                     {method("waitForReady: \"true\""), []string{"f:3: methods[0].waitForReady: must be true or false"}, false},
		"a field of a number":               {method("keyField: 3"), []string{"f:3: methods[0].keyField: must be a string"}, false},
		"an alias, where its anchor is": {
			"methods:\n  - name: /a.B/C\n    retry: &r {maxAttempts: 0}\n  - name: /a.B/D\n    retry: *r\n",
			[]string{"f:3: methods[0].retry.maxAttempts: must be a positive integer", "f:3: methods[1].retry.maxAttempts: must be a positive integer"},
			false,
		},
		"several in an entry": {
			method("timeout: 3\n    timeout: 4s\n    retry: {maxAttempts: 200}\n    hedge: {delay: 5}\n  - name: /a.B/C\n    timeout: x"),
			[]string{
				"f:3: methods[0].timeout: must be " + duration,
				"f:4: methods[0].timeout: is also set in line 3",
				`f:6: methods[0].hedge.delay: must be a duration with a unit, such as "1.5s", or p95`,
				"f:5: methods[0].retry.maxAttempts: is 200, must be at most 100",
				`f:2: methods[0]: policy "/a.B/C": fields Retry and Hedge are both set, only one may be`,
				"f:8: methods[1].timeout: must be " + duration,
				`f:7: methods[1].name: "/a.B/C" is also the name of the entry in line 2`,
			},
			true,
		},
	}
}

func TestErrorsNameFileLineAndField(t *testing.T) {
	t.Parallel()
	for name, m := range mistakes() {
		_, err := parse("f", []byte(m.text))
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if want := strings.Join(m.want, "\n"); err.Error() != want {
			t.Errorf("%s: got\n%v\nwant\n%s", name, err, want)
		}
	}
}

func TestAliasesThatRepeatTooMuchAreAnError(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("methods:\n  - {name: /a.B/first, retry: &r {codes: [" + strings.Repeat("UNAVAILABLE, ", 10_000) + "]}}\n")
	for range 100 {
		text.WriteString("  - {name: /a.B/C, retry: *r}\n")
	}
	if _, err := parse("f", []byte(text.String())); err == nil || !strings.Contains(err.Error(), "more than 262144 values") {
		t.Errorf("got %.300v", err)
	}
}

// A small file with many mistakes must not need much memory.
func TestErrorsOfAFileAreLimited(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"codes":          "methods:\n  - name: /a.B/C\n    retry: {codes: [" + strings.Repeat("OK,", 100_000) + "]}\n",
		"names":          strings.Repeat("methods:\n- name: /a/"+strings.Repeat("x", 10_000)+"\n", 50),
		"unknown fields": strings.Repeat(strings.Repeat("x", 9_000)+": 1\n", 110),
		"aliases":        "methods:\n  - name: /a.B/C\n    retry: {codes: &c [" + strings.Repeat("OK,", 1000) + "]}\n" + strings.Repeat("  - {name: /a.B/C, retry: {codes: *c}}\n", 200),
	} {
		_, err := parse("f", []byte(text))
		if err == nil || len(err.Error()) > 20_000 {
			t.Errorf("%s: the error has %d bytes", name, len(fmt.Sprint(err)))
		}
	}
	_, err := parse("f", []byte("methods:\n"+strings.Repeat("  - 1\n", 101)))
	if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != 101 || lines[100] != "f: has more than 100 errors" {
		t.Errorf("%d lines, the last is %s", len(lines), lines[len(lines)-1])
	}
}

// What changes nothing is not a mistake.
func TestFieldsThatChangeNothingAreValid(t *testing.T) {
	t.Parallel()
	_, compiled := schema(t)
	for _, entry := range []string{"keyRequired: false", "waitForReady: false", `keyField: ""`, "mode: {}", "retry: {maxAttempts: 3.0}", "retry: {maxAttempts: 0x3}", "hedge: {delay: \"0\"}", "timeout: 1μs", "timeout: 1µs"} {
		text := "version: \"1 \uFFFD ü\"\nmethods:\n  - name: /a.B/C\n    " + entry + "\n"
		if _, err := parse("f", []byte(text)); err != nil {
			t.Error(err)
		}
		if err := validate(compiled, []byte(text)); err != nil {
			t.Errorf("%s: the schema says: %v", entry, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"policies.yaml", "policies.json", "invalid.yaml"} {
		f.Add(read(f, name))
	}
	for _, m := range mistakes() {
		f.Add([]byte(m.text))
	}
	client, err := interceptors.NewClient()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("f", text)
		switch {
		case err != nil:
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("%v has no line", err)
			}
		case c.version == "" || c.policies.Validate() != nil:
			t.Errorf("%q %v", c.version, c.policies.Validate())
		default:
			if err := client.SetModes(c.client.all, c.client.byName); err != nil {
				t.Error(err)
			}
		}
	})
}
