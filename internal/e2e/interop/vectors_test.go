package interop_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The hops in other languages have tests of their own: of the vectors that need no network, and of what no vector says.
func TestVectorsOfTheSpecificationInOtherLanguages(t *testing.T) {
	t.Parallel()
	for file, program := range map[string]func(testing.TB) string{
		"node/vectors_test.js":   node,
		"node/hop_test.js":       node,
		"python/vectors_test.py": python,
		"python/hop_test.py":     python,
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			readSources(t, file)
			if out, err := exec.CommandContext(t.Context(), program(t), filepath.Join(hopsFolder, file)).CombinedOutput(); err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}
