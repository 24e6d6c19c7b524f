package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTableOfDependenciesIsCorrect compares docs/dependencies.md with what the go command says
// of each package, built in its own module.
func TestTableOfDependenciesIsCorrect(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		rows++
		name := code.FindStringSubmatch(cells[1])[1]
		var want []string
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			want = append(want, m[1])
		}
		got, err := modules(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s compiles %v, and the table says %v", name, got, want)
		}
	}
	if rows < 8 {
		t.Errorf("the table has %d rows", rows)
	}
}

// modules returns the modules that are compiled for a package, but for its own.
func modules(name string) ([]string, error) {
	const root = "github.com/hopbound/hopbound/"
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".") //nolint:noctx // it takes a moment
	cmd.Dir = filepath.Join("..", strings.TrimPrefix(name, root))
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	list := strings.Fields(string(out))
	slices.Sort(list)
	return slices.Compact(list), nil
}

// testModules are modules that only Hopbound's tests need.
var testModules = []string{"pgregory.net/rapid", "go.uber.org/goleak", "go.opentelemetry.io/otel/sdk"}

func TestRootModuleRequiresNoModuleOfItsTests(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"../go.mod", "../go.sum"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, module := range testModules {
			if strings.Contains(string(text), module) {
				t.Errorf("%s has %s", file, module)
			}
		}
	}
}

// TestUsersModuleGetsNoModuleOfTheTests runs go mod tidy in a module that imports the packages of the
// root module, and reads the go.sum that comes of it.
func TestUsersModuleGetsNoModuleOfTheTests(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/shop\n\ngo 1.26.0\n\nrequire github.com/hopbound/hopbound v0.0.0\n\n" +
			"replace github.com/hopbound/hopbound => " + root + "\n",
		"main.go": `package main

import (
	_ "github.com/hopbound/hopbound/balancer/otherbackend"
	_ "github.com/hopbound/hopbound/budget"
	_ "github.com/hopbound/hopbound/deadline"
	_ "github.com/hopbound/hopbound/idempotency"
	_ "github.com/hopbound/hopbound/interceptors"
)

func main() {}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The modules come from the module cache or the proxy, and their checksums from there too.
	tidy := exec.Command("go", "mod", "tidy") //nolint:noctx // it takes a moment
	tidy.Dir = dir
	tidy.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOSUMDB=off")
	if out, err := tidy.CombinedOutput(); err != nil {
		if os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" {
			t.Fatalf("go mod tidy: %v\n%s", err, out)
		}
		t.Skipf("go mod tidy, which needs the proxy if the module cache is empty: %v\n%s", err, out)
	}
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(sums), "google.golang.org/grpc ") {
		t.Fatalf("go.sum has no gRPC:\n%s", sums)
	}
	for _, module := range testModules {
		if strings.Contains(string(sums), module) {
			t.Errorf("a user's go.sum has %s", module)
		}
	}
}
