package interop_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The hops in other languages have tests of the vectors that need no network.
func TestVectorsOfTheSpecificationInOtherLanguages(t *testing.T) {
	t.Parallel()
	for _, hop := range []struct {
		name, file string
		program    func(testing.TB) string
	}{
		{"node", "node/vectors_test.js", func(t testing.TB) string { return binary(t, "node", "nodejs") }},
		{"python", "python/vectors_test.py", python},
	} {
		t.Run(hop.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(hop.program(t), filepath.Join(hopsFolder, hop.file))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}
