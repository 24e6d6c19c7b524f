package idempotency_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

func TestNewKeysAreDistinctUUIDsOfVersion7(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[idempotency.Key]bool{}
	for range 1000 {
		key := idempotency.NewKey()
		if seen[key] || !form.MatchString(string(key)) || key.Validate() != nil {
			t.Fatalf("key %q: seen %v, valid %v", key, seen[key], key.Validate())
		}
		seen[key] = true
	}
}

func TestKeysAreValidated(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"a":                      "",
		"order 17/charge":        "",
		strings.Repeat("k", 255): "",
		"":                       "1 to 255 characters",
		strings.Repeat("k", 256): "1 to 255 characters",
		" a":                     "printable ASCII",
		"a ":                     "printable ASCII",
		"a\nb":                   "printable ASCII",
		"clé":                    "printable ASCII",
		"a\x7f":                  "printable ASCII",
		"one,two":                "printable ASCII",
		"one, two":               "printable ASCII",
		`"a"`:                    "printable ASCII",
	} {
		if err := idempotency.Key(key).Validate(); (err == nil) != (want == "") || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: %v, want %q", key, err, want)
		}
	}
}

func TestQuotedKeysAreReadAsInTheDraft(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]idempotency.Key{
		"a": "a", `"a"`: "a", `"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`"`: "", `""`: "", `"a`: "", `a"`: "", `"a", "b"`: "", "a,b": "", `"a";x=1`: "", `"a\"b"`: "",
		`"` + strings.Repeat("k", 255) + `"`: idempotency.Key(strings.Repeat("k", 255)),
	} {
		if got, err := idempotency.ParseKey(value); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", value, got, err, want)
		}
	}
}

func ExampleWithKey() {
	ctx := idempotency.WithKey(context.Background(), "order-17")
	key, ok := idempotency.FromContext(ctx)
	fmt.Println(key, ok)
	// Output: order-17 true
}

// A child key changes with each of the parts from which it is made. The same
// parts make the same key.
func TestChildKeysDifferInEachPart(t *testing.T) {
	t.Parallel()
	id := idempotency.NewID("tenant", "/a/B", "k")
	seen := map[idempotency.Key]int{}
	for i, key := range []idempotency.Key{
		id.Child("k", "/c/D", "1", nil),
		id.Child("k", "/c/D", "2", nil),
		id.Child("k", "/c/E", "1", nil),
		id.Child("l", "/c/D", "1", nil),
		idempotency.NewID("tenant", "/a/C", "k").Child("k", "/c/D", "1", nil),
		idempotency.NewID("other", "/a/B", "k").Child("k", "/c/D", "1", nil),
		id.Child("k", "/c/D1", "", nil),
	} {
		if n, ok := seen[key]; ok {
			t.Errorf("%d and %d have the same key", n, i)
		}
		seen[key] = i
		if err := key.Validate(); err != nil || len(key) != 36 || key[14] != '8' {
			t.Errorf("%d: %q is no UUID of version 8: %v", i, key, err)
		}
	}
	if again := id.Child("k", "/c/D", "1", nil); seen[again] != 0 {
		t.Error("the same parts have made two keys")
	}
}
