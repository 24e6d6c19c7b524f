package crashtest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shiftVariable is by how many seconds the wall clock of a worker is wrong.
const shiftVariable = "HOPBOUND_TEST_CLOCK_SHIFT"

// buildWorker builds the worker. If everything is to be tested, the worker has a
// clock that can be set wrong; the first such build takes minutes.
func buildWorker(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "worker")
	args := []string{"build", "-o", binary}
	if everything() {
		args = append(args, "-overlay", shiftedClock(t, dir))
	}
	out, err := exec.CommandContext(t.Context(), "go", append(args, "./worker")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// shiftedClock returns the overlay for a build with a copy of package time whose
// Now adds the number of seconds in an environment variable.
func shiftedClock(t *testing.T, dir string) string {
	t.Helper()
	const reads = "sec, nsec, mono := runtimeNow()\n"
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "func Now() Time {") || !strings.Contains(string(text), reads) {
		t.Fatalf("%s does not read the clock as it did", source)
	}
	changed := strings.Replace(string(text), reads, reads+"\tsec += testShift\n", 1)
	changed += `
var testShift = func() (shift int64) {
	text, _ := syscall.Getenv("` + shiftVariable + `")
	negative := len(text) > 0 && text[0] == '-'
	for _, c := range text {
		if c >= '0' && c <= '9' {
			shift = 10*shift + int64(c-'0')
		}
	}
	if negative {
		return -shift
	}
	return shift
}()
`
	if !strings.Contains(changed, `"syscall"`) {
		changed = strings.Replace(changed, "import (", "import (\n\t\"syscall\"", 1)
	}
	copied := filepath.Join(dir, "time.go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: copied}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	for path, content := range map[string][]byte{copied: []byte(changed), overlayFile: overlay} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlayFile
}
