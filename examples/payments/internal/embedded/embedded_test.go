package embedded

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// With Hopbound each cart is charged for once, whatever is lost or crashes.
func TestEachCartIsChargedForOnce(t *testing.T) {
	t.Parallel()
	const carts = 60
	for _, s := range []stack{native, hopbound} {
		r, err := s.sell(t.Context(), carts)
		if err != nil {
			t.Fatal(err)
		}
		if r.bought != carts || r.unpaid != 0 {
			t.Errorf("%s: %+v", s.name, r)
		}
		if once := r.charges == carts && r.twice == 0; once != (s.name == "hopbound") {
			t.Errorf("%s: %+v", s.name, r)
		}
	}
}

func TestTableNamesBothStacks(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := Run(t.Context(), &out, 10); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"native", "hopbound", "charged twice"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
