package dashboards_test

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const runbooks = "../../docs/runbooks"

// runbookSections are the sections of each runbook, in their order.
func runbookSections() []string {
	return []string{
		"What it means", "How it looks to users", "Where to look", "What to do now", "What not to do", "How to prevent it", "When it is a false alarm",
	}
}

// severities returns the severities of each alert, by its name, and checks where its runbook is said to be.
func severities(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			if want := "https://github.com/hopbound/hopbound/blob/main/docs/runbooks/" + r.Alert + ".md"; r.Annotations["runbook_url"] != want {
				t.Errorf("%s: the runbook_url is %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
			}
			if s := r.Labels["severity"]; !slices.Contains(all[r.Alert], s) {
				all[r.Alert] = append(all[r.Alert], s)
			}
		}
	}
	return all
}

func TestEachAlertHasARunbook(t *testing.T) {
	t.Parallel()
	var pages []string
	files, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".md"); strings.HasPrefix(name, "Hopbound") { // others belong to no alert
			pages = append(pages, name)
		}
	}
	alerts := severities(t)
	if want := slices.Sorted(maps.Keys(alerts)); !slices.Equal(pages, want) {
		t.Errorf("runbooks %q, alerts %q", pages, want)
	}
	table := readText(t, filepath.Join(runbooks, "README.md"))
	for name, severity := range alerts {
		if line := fmt.Sprintf("| [%s](%s.md) | %s |", name, name, strings.Join(severity, ", ")); strings.Count(table, line) != 1 {
			t.Errorf("the table of runbooks has no single line that begins with %s", line)
		}
	}
}

func TestRunbooksHaveAllSections(t *testing.T) {
	t.Parallel()
	for name, severity := range severities(t) {
		text := readText(t, filepath.Join(runbooks, name+".md"))
		if !strings.HasPrefix(text, "# "+name+"\n\nThe severity is "+severity[0]) {
			t.Errorf("%s does not begin with its name and its severity, which is %s", name, severity[0])
		}
		var sections []string
		for _, part := range strings.Split(text, "\n## ")[1:] {
			title, body, _ := strings.Cut(part, "\n")
			if sections = append(sections, title); strings.TrimSpace(body) == "" {
				t.Errorf("%s: the section %q is empty", name, title)
			}
		}
		if want := runbookSections(); !slices.Equal(sections, want) {
			t.Errorf("%s has the sections %q, want %q", name, sections, want)
		}
		if lines := strings.Count(text, "\n"); lines > 80 {
			t.Errorf("%s has %d lines, which is more than a page", name, lines)
		}
		if !strings.Contains(text, "```promql\n") {
			t.Errorf("%s has no query", name)
		}
	}
}

// Metrics and labels, panels, and files that a runbook names exist.
func TestRunbooksNameWhatExists(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	text := readText(t, "rules.yml") + readText(t, "grafana/hopbound.json") + dotsToUnderscores(readText(t, "../../docs/telemetry.md"))
	for _, name := range metricNames(text) {
		known[name] = true
	}
	panels := map[string]bool{}
	for _, p := range readDashboard(t).Panels {
		panels[p.Title] = true
	}
	files, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name, text := filepath.Base(file), readText(t, file)
		flat := strings.Join(strings.Fields(text), " ")
		for _, code := range regexp.MustCompile("(?s)```promql\n.*?```|`[^`]+`").FindAllString(text, -1) {
			for _, metric := range metricNames(dotsToUnderscores(code)) {
				if !known[metric] {
					t.Errorf("%s names %s, which neither the rules nor the dashboard nor telemetry.md have", name, metric)
				}
			}
		}
		for _, m := range regexp.MustCompile(`[Pp]anel "([^"]+)"`).FindAllStringSubmatch(flat, -1) {
			if !panels[m[1]] {
				t.Errorf("%s: the dashboard has no panel %q", name, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(path.Join(runbooks, m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, m := range regexp.MustCompile("`(?:go run ./)?(proto/[^ `]+|examples/[^ `]+|balancer/[^ `]+)").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(path.Join("../..", m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// metricNames returns the names in a text that look like metrics or their labels, without the suffixes that
// Prometheus adds.
func metricNames(text string) []string {
	var names []string
	for _, name := range regexp.MustCompile(`\b(?:hopbound[_:]|grpc_)[\w:]+`).FindAllString(text, -1) {
		names = append(names, regexp.MustCompile(`(_seconds|_ratio)?(_total|_bucket|_sum|_count)?$`).ReplaceAllString(name, ""))
	}
	return names
}

// dotsToUnderscores gives OpenTelemetry's names of metrics and attributes the form that they have in Prometheus.
func dotsToUnderscores(text string) string {
	return regexp.MustCompile(`\b(?:hopbound|grpc)(?:\.[a-z_]+)+`).ReplaceAllStringFunc(text, func(name string) string {
		return strings.ReplaceAll(name, ".", "_")
	})
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
