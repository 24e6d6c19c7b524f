package dashboards_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// dashboard is what there is to check of Grafana's JSON.
type dashboard struct {
	Title         string  `json:"title"`
	UID           string  `json:"uid"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []panel `json:"panels"`
	Templating    struct {
		List []struct {
			Name  string `json:"name"`
			Type  string `json:"type"`
			Query any    `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID          int       `json:"id"`
	Type        string    `json:"type"`
	Title       string    `json:"title"`
	Description string    `json:"description"`
	GridPos     gridPos   `json:"gridPos"`
	Targets     []target  `json:"targets"`
	FieldConfig fieldConf `json:"fieldConfig"`
	Datasource  struct {
		UID string `json:"uid"`
	} `json:"datasource"`
}

type (
	gridPos struct {
		H int `json:"h"`
		W int `json:"w"`
		X int `json:"x"`
		Y int `json:"y"`
	}
	fieldConf struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	}
	target struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
	}
)

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("grafana/hopbound.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboardCanBeImported(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.Title == "" || d.UID == "" || d.SchemaVersion == 0 {
		t.Errorf("title %q, uid %q, schema %d", d.Title, d.UID, d.SchemaVersion)
	}
	var rows []string
	ids, cells := map[int]bool{}, map[[2]int]string{}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := cells[cell]; other != "" || cell[0] >= 24 {
					t.Fatalf("%s lies over %q, or beyond the edge", p.Title, other)
				}
				cells[cell] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" {
			t.Errorf("panel %d, %q, lacks a title, a description, a unit, a query or its data source", p.ID, p.Title)
		}
		for _, q := range p.Targets {
			if q.LegendFormat == "" || q.RefID == "" {
				t.Errorf("%s: a query without legend or name", p.Title)
			}
			for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if m[1] != "__rate_interval" && !variables[m[1]] {
					t.Errorf("%s: there is no variable %s", p.Title, m[1])
				}
			}
		}
	}
	want := []string{"What is wrong now", "Users", "Hops", "Latency", "One hop: $service", "One method: $method", "Idempotency"}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
}

// Each description says what is healthy and what to look at next. Names in double quotes are other panels or
// rows. Panels are cited by their names, so no two have the same.
func TestDescriptionsSayWhatIsHealthyAndWhatToLookAt(t *testing.T) {
	t.Parallel()
	panels, titles := readDashboard(t).Panels, map[string]bool{}
	for _, p := range panels {
		if titles[p.Title] {
			t.Errorf("two panels are called %q", p.Title)
		}
		titles[p.Title] = true
	}
	for _, p := range panels {
		if p.Type == "row" {
			continue
		}
		if !strings.Contains(p.Description, " Healthy is ") || !regexp.MustCompile(`(?i)\b(if|look at|points to)\b`).MatchString(p.Description) {
			t.Errorf("%s: the description does not say what is healthy, or what to look at next: %s", p.Title, p.Description)
		}
		for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(p.Description, -1) {
			if !titles[m[1]] {
				t.Errorf("%s refers to the panel %q, which does not exist", p.Title, m[1])
			}
		}
	}
}

// The collector's pipelines are made of what is configured, and what the compose
// file mounts is there.
func TestConfigurationsHangTogether(t *testing.T) {
	t.Parallel()
	var collector struct {
		Receivers, Processors, Exporters map[string]any
		Service                          struct {
			Pipelines map[string]map[string][]string
		}
	}
	readYAML(t, "collector.yaml", &collector)
	for name, pipeline := range collector.Service.Pipelines {
		for kind, defined := range map[string]map[string]any{
			"receivers": collector.Receivers, "processors": collector.Processors, "exporters": collector.Exporters,
		} {
			if len(pipeline[kind]) == 0 {
				t.Errorf("%s has no %s", name, kind)
			}
			for _, used := range pipeline[kind] {
				if _, ok := defined[used]; !ok {
					t.Errorf("%s uses %s, which is not configured", name, used)
				}
			}
		}
	}
	if len(collector.Service.Pipelines) != 2 {
		t.Errorf("%d pipelines", len(collector.Service.Pipelines))
	}
	var compose struct {
		Services map[string]struct {
			Image     string
			Command   any
			Volumes   []string
			DependsOn []string `yaml:"depends_on"`
		}
		Volumes map[string]any
	}
	readYAML(t, "docker-compose.yml", &compose)
	for _, want := range []string{"chain", "collector", "jaeger", "prometheus", "grafana"} {
		if _, ok := compose.Services[want]; !ok {
			t.Errorf("no %s", want)
		}
	}
	for name, s := range compose.Services {
		if _, version, ok := strings.Cut(s.Image, ":"); !ok || version == "latest" {
			t.Errorf("%s: the image %q has no version", name, s.Image)
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, named := compose.Volumes[from]; named {
				continue
			}
			if _, err := os.Stat(from); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, other := range s.DependsOn {
			if _, ok := compose.Services[other]; !ok {
				t.Errorf("%s depends on %s, which there is not", name, other)
			}
		}
	}
	var provisioned struct {
		Providers []struct{ Options struct{ Path string } }
	}
	readYAML(t, "grafana/provisioning/dashboards/dashboards.yaml", &provisioned)
	mounted := strings.Join(compose.Services["grafana"].Volumes, " ")
	for _, p := range provisioned.Providers {
		if !strings.Contains(mounted, p.Options.Path) {
			t.Errorf("nothing is mounted at %s", p.Options.Path)
		}
	}
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
