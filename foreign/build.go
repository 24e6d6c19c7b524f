package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// suite is a package of tests.
type suite struct {
	pkg string
	// separate runs each test in its own process, because gRPC's tests change global state, and fail if an
	// earlier test has leaked goroutines.
	separate bool
}

func suites() []suite {
	all := append(make([]suite, 0, 16),
		suite{grpcModule + "/test", true},
		suite{grpcModule + "/health", false},
		suite{grpcModule + "/stats", true},
		suite{grpcModule + "/stats/opentelemetry", true})
	for _, name := range [...]string{"", "/auth", "/logging", "/protovalidate", "/ratelimit", "/realip", "/recovery", "/retry", "/selector", "/timeout", "/validator"} {
		all = append(all, suite{middlewareModule + "/interceptors" + name, false})
	}
	return all
}

// unit is a test, or all tests of a package. Each unit runs in its own process.
type unit struct {
	name string // package and test, as in allowed.txt
	run  func(ctx context.Context, mode string) (out []byte, err error)
}

// build builds all suites with Hopbound in them.
func build(dir string) ([]unit, error) {
	modfile, err := copyModules(dir)
	if err != nil {
		return nil, err
	}
	all := suites()
	packages := []string{"list", modfile, "-f", "{{.ImportPath}} {{.Name}} {{.Dir}}"}
	for _, s := range all {
		packages = append(packages, s.pkg)
	}
	packages = append(packages, interopPackages()...)
	out, err := command(packages...)
	if err != nil {
		return nil, err
	}
	overlay := overlay{dir: dir, Replace: map[string]string{}}
	if err := overlay.add(filepath.Join(dir, copied[grpcModule], "hopboundhooks", "hooks.go"), hooksText); err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
		fields := strings.Fields(line)
		dirs[fields[0]] = fields[2]
		if err := overlay.inject(fields[1], fields[2]); err != nil {
			return nil, err
		}
	}
	file, err := overlay.write()
	if err != nil {
		return nil, err
	}
	var units []unit
	for i, s := range all {
		path := filepath.Join(dir, fmt.Sprint("test", i))
		if _, err := command("test", modfile, "-c", "-vet=off", "-overlay", file, "-o", path, s.pkg); err != nil {
			return nil, err
		}
		tests := []string{""}
		if s.separate {
			if tests, err = listTests(dirs[s.pkg]); err != nil {
				return nil, err
			}
		}
		for _, test := range tests {
			units = append(units, s.unit(path, dirs[s.pkg], test))
		}
	}
	for _, pkg := range interopPackages() {
		if _, err := command("build", modfile, "-overlay", file, "-o", interopPath(dir, pkg), pkg); err != nil {
			return nil, err
		}
	}
	return append(units, interopUnits(dir)...), nil
}

// unit returns a test of a suite, or all of its tests.
func (s suite) unit(path, dir, test string) unit {
	args := []string{"-test.v"}
	if s.separate {
		args = append(args, "-test.run=^Test$/^"+test+"$")
	}
	short := strings.TrimPrefix(strings.TrimPrefix(s.pkg, grpcModule+"/"), "github.com/grpc-ecosystem/")
	return unit{strings.TrimSpace(short + " " + test), func(ctx context.Context, mode string) ([]byte, error) {
		cmd := process(ctx, mode, path, args...)
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}}
}

// process returns a command that runs in a mode.
func process(ctx context.Context, mode, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "HOPBOUND_MODE="+mode)
	cmd.WaitDelay = time.Second
	return cmd
}

// copied maps the modules whose tests are run to the names of their copies.
var copied = map[string]string{grpcModule: "grpc", middlewareModule: "middleware"}

// copyModules copies the modules: an overlay cannot replace files in the module cache, and tests must not write
// there. It returns the flag with which the go command uses the copies.
func copyModules(dir string) (string, error) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		return "", fmt.Errorf("foreign must run in its own folder: %w", err)
	}
	own, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	text = bytes.Replace(text, []byte("=> ../"), []byte("=> "+own), 1)
	for module, name := range copied {
		cached, err := command("list", "-m", "-f", "{{.Dir}}", module)
		if err != nil {
			return "", err
		}
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(strings.TrimSpace(cached))); err != nil {
			return "", err
		}
		text = fmt.Appendf(text, "\nreplace %s => %s\n", module, filepath.Join(dir, name))
	}
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		return "", err
	}
	modfile := filepath.Join(dir, "go.mod")
	if err := os.WriteFile(modfile, text, 0o600); err != nil { //nolint:gosec // a temporary folder
		return "", err
	}
	return "-modfile=" + modfile, os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600) //nolint:gosec // likewise
}

// command runs the go command, and returns what it prints.
func command(args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// testMethod is a test that grpctest.RunSubTests runs.
var testMethod = regexp.MustCompile(`(?m)^func \((?:\w+ )?\w+\) Test(\w+)\(\w+ \*testing\.T\)`)

// listTests returns the names of the tests in a folder.
func listTests(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, m := range testMethod.FindAllSubmatch(source, -1) {
			tests = append(tests, string(m[1]))
		}
	}
	slices.Sort(tests)
	return slices.Compact(tests), nil
}

// overlay is the JSON file that "go -overlay" reads.
type overlay struct {
	dir     string
	Replace map[string]string `json:"Replace"`
}

//go:embed hooks.go.txt
var hooksText string

//go:embed inject.go.txt
var injectText string

// add adds a file with the text at path.
func (o *overlay) add(path, text string) error {
	own := filepath.Join(o.dir, fmt.Sprintf("overlay%d.go", len(o.Replace)))
	o.Replace[path] = own
	return os.WriteFile(own, []byte(text), 0o600)
}

// inject adds the file that sets the options to a package. In a package of tests, the file belongs to the external test
// package, which may import packages that import the tested package.
func (o *overlay) inject(name, dir string) error {
	file := "hopbound.go"
	if name != "main" {
		name, file = name+"_test", "hopbound_test.go"
	}
	return o.add(filepath.Join(dir, file), strings.Replace(injectText, "package inject", "package "+name, 1))
}

func (o *overlay) write() (string, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	file := filepath.Join(o.dir, "overlay.json")
	return file, os.WriteFile(file, data, 0o600)
}
