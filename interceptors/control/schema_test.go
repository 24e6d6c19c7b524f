package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

func schema(t *testing.T) (raw map[string]any, compiled *jsonschema.Schema) {
	t.Helper()
	text, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	if compiled, err = compiler.Compile("schema.json"); err != nil {
		t.Fatal(err)
	}
	raw, ok := doc.(map[string]any)
	if !ok {
		t.Fatal("the schema is no object")
	}
	return raw, compiled
}

// validate returns what the schema finds wrong with a text in YAML.
func validate(schema *jsonschema.Schema, text []byte) error {
	var value any
	if err := yaml.Load(text, &value); err != nil {
		return err
	}
	asJSON, err := json.Marshal(value)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// at returns the value at a path in a JSON document.
func at(t *testing.T, doc any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, _ := doc.(map[string]any)
			doc = object[step]
		case int:
			list, _ := doc.([]any)
			doc = list[step]
		}
		if doc == nil {
			t.Fatalf("the schema has no %v", path)
		}
	}
	return doc
}

// known returns the words that the parser knows where a text has an unknown one.
func known(t *testing.T, text string) []string {
	t.Helper()
	_, err := parse("f", []byte(text))
	if err == nil {
		t.Fatalf("%s: no error", text)
	}
	_, list, ok := strings.Cut(err.Error(), "must be one of ")
	if !ok {
		t.Fatal(err)
	}
	list, _, _ = strings.Cut(list, "\n")
	return strings.Split(list, ", ")
}

func TestSchemaHasTheFieldsAndWordsOfTheParser(t *testing.T) {
	t.Parallel()
	doc, _ := schema(t)
	method := []any{"$defs", "method", "properties"}
	under := func(path ...any) []any { return append(slices.Clone(method), path...) }
	for text, path := range map[string][]any{
		"x: 1":                                       {"properties"},
		"mode: {x: 1}":                               {"$defs", "mode", "anyOf", 1, "properties"},
		"methods: [{x: 1}]":                          method,
		"methods: [{retry: {x: 1}}]":                 under("retry", "properties"),
		"methods: [{retry: {backoff: {x: 1}}}]":      under("retry", "properties", "backoff", "properties"),
		"methods: [{hedge: {x: 1}}]":                 under("hedge", "properties"),
		"mode: x":                                    {"$defs", "modeOfBoth", "enum"},
		"methods: [{idempotency: x}]":                under("idempotency", "enum"),
		"methods: [{retry: {backoff: {jitter: x}}}]": under("retry", "properties", "backoff", "properties", "jitter", "enum"),
	} {
		var inSchema []string
		switch node := at(t, doc, path...).(type) {
		case map[string]any:
			inSchema = slices.Collect(maps.Keys(node))
		case []any:
			for _, word := range node {
				inSchema = append(inSchema, fmt.Sprint(word))
			}
		}
		slices.Sort(inSchema)
		if inParser := known(t, text); !slices.Equal(inSchema, inParser) {
			t.Errorf("%s: the schema has %v, the parser %v", text, inSchema, inParser)
		}
	}
}

func TestAllFieldsOfPoliciesAreInTheFile(t *testing.T) {
	t.Parallel()
	for text, of := range map[string]any{
		"methods: [{x: 1}]":                     interceptors.Policy{},
		"methods: [{retry: {x: 1}}]":            interceptors.RetryPolicy{},
		"methods: [{retry: {backoff: {x: 1}}}]": interceptors.Backoff{},
		"methods: [{hedge: {x: 1}}]":            interceptors.HedgePolicy{},
	} {
		fields := known(t, text)
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			name := string(unicode.ToLower(rune(f.Name[0]))) + f.Name[1:]
			if !slices.Contains(fields, name) {
				t.Errorf("%T has %s, and the file has only %v", of, f.Name, fields)
			}
		}
	}
}

func TestValidFilesPassTheSchema(t *testing.T) {
	t.Parallel()
	_, compiled := schema(t)
	texts := map[string][]byte{
		"policies.yaml": read(t, "policies.yaml"), "policies.json": read(t, "policies.json"), "no field": []byte("{}"),
		"durations": []byte("methods: [{name: /a.B/C, timeout: 1h2m3.5s, hedge: {delay: 100us}, attemptTimeout: .5s}]"),
		"versions":  []byte("version: 1.10"),
	}
	guide, err := os.ReadFile("../../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range regexp.MustCompile("(?ms)^```(?:yaml|json)\n(.*?)^```$").FindAllSubmatch(guide, -1) {
		texts["block "+string(rune('1'+i))] = block[1]
	}
	if len(texts) < 7 {
		t.Errorf("the guide has %d examples", len(texts)-5)
	}
	for name, text := range texts {
		if _, err := parse(name, text); err != nil {
			t.Error(err)
		}
		if err := validate(compiled, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMistakesDoNotPassTheSchema(t *testing.T) {
	t.Parallel()
	_, compiled := schema(t)
	if validate(compiled, read(t, "invalid.yaml")) == nil {
		t.Error("invalid.yaml passes")
	}
	for name, m := range mistakes() {
		if !m.noSchema && validate(compiled, []byte(m.text)) == nil {
			t.Errorf("%s passes", name)
		}
	}
}
