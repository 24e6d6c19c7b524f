package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc/codes"
)

// maxNodes bounds the work for a file whose aliases refer to long values.
const maxNodes = 1 << 18

// maxErrors is how many errors of a file are reported.
const maxErrors = 100

// reader reads a file, and collects its errors.
type reader struct {
	name   string
	config config
	nodes  int            // visited so far, and with aliases again
	lines  map[string]int // of fields, by path
	errs   []error
}

// place is a value in a file, with its path, such as methods[0].retry.codes.
type place struct {
	*yaml.Node
	path string
}

// value reads the value at a place, or reports what is wrong with it.
type value func(at place)

// fields are the fields that an object may have.
type fields map[string]value

func (r *reader) failf(line int, path, format string, args ...any) {
	switch {
	case len(r.errs) > maxErrors:
		return
	case len(r.errs) == maxErrors:
		r.errs = append(r.errs, fmt.Errorf("%s: has more than %d errors", r.name, maxErrors))
		return
	case path != "":
		path += ": "
	}
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s%s", r.name, line, path, fmt.Sprintf(format, args...)))
}

// document returns the only value of a text, or nil if there is an error.
func (r *reader) document(text []byte) *yaml.Node {
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRune(text[i:])
		if c == utf8.RuneError && size == 1 || unicode.IsControl(c) && !strings.ContainsRune("\t\r\n", c) {
			r.failf(1+bytes.Count(text[:i], []byte("\n")), "", "has a control character, or is not UTF-8")
			return nil
		}
		i += size
	}
	var document, second yaml.Node
	var syntax *yaml.LoadError
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err == nil {
		err = loader.Load(&document)
	}
	if err == nil {
		err = loader.Load(&second)
	}
	switch {
	case err == nil:
		r.failf(second.Line, "", "a second document starts")
	case errors.As(err, &syntax):
		line := syntax.Mark.Line
		if strings.Contains(syntax.ContextMsg, "scanning") { // what began there has no end, such as a quote
			line = syntax.ContextMark.Line
		}
		r.failf(max(1, line), "", "%s", strings.TrimSpace(syntax.Message+" "+syntax.ContextMsg))
	case !errors.Is(err, io.EOF):
		r.failf(1, "", "%v", err)
	case len(document.Content) == 0:
		r.failf(1, "", "is empty")
	default:
		return document.Content[0]
	}
	return nil
}

// follow returns the value that a node has or refers to, or nil if there have been too many.
func (r *reader) follow(n *yaml.Node) *yaml.Node {
	if r.nodes++; r.nodes == maxNodes {
		r.failf(n.Line, "", "more than %d values, including those that aliases repeat", maxNodes)
	}
	switch {
	case r.nodes >= maxNodes:
		return nil
	case n.Kind == yaml.AliasNode:
		return n.Alias
	default:
		return n
	}
}

func (r *reader) object(at place, known fields) {
	if at.Kind != yaml.MappingNode {
		r.failf(at.Line, at.path, "must be an object")
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(at.Content); i += 2 {
		key := at.Content[i]
		path := strings.TrimPrefix(at.path+"."+key.Value, ".")
		read := known[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || read == nil:
			r.failf(key.Line, at.path, "unknown field %.50q, must be one of %s", key.Value, names(known))
		case lines[key.Value] > 0:
			r.failf(key.Line, path, "is also set in line %d", lines[key.Value])
		default:
			if n := r.follow(at.Content[i+1]); n != nil {
				r.lines[path] = key.Line
				read(place{n, path})
			}
		}
		lines[key.Value] = key.Line
	}
}

func (r *reader) list(at place, read value) {
	if at.Kind != yaml.SequenceNode {
		r.failf(at.Line, at.path, "must be a list")
		return
	}
	for i, n := range at.Content {
		if n = r.follow(n); n != nil {
			read(place{n, fmt.Sprintf("%s[%d]", at.path, i)})
		}
	}
}

// scalar reads a value of one kind. If parse does not accept it, the error says what it must be.
func scalar[T any](r *reader, to *T, must string, parse func(n *yaml.Node) (v T, ok bool)) value {
	return func(at place) {
		v, ok := parse(at.Node)
		if !ok || at.Kind != yaml.ScalarNode {
			r.failf(at.Line, at.path, "must be %s", must)
			return
		}
		*to = v
	}
}

func isString(n *yaml.Node) bool { return n.ShortTag() == "!!str" }

func (r *reader) text(to *string) value {
	return scalar(r, to, "a string", func(n *yaml.Node) (string, bool) { return n.Value, isString(n) })
}

func (r *reader) boolean(to *bool) value {
	return scalar(r, to, "true or false", func(n *yaml.Node) (bool, bool) {
		b, err := strconv.ParseBool(n.Value)
		return b, err == nil && n.ShortTag() == "!!bool"
	})
}

// Numbers and timeouts are not 0, because a policy's field that is 0 is not set.

func (r *reader) integer(to *int) value {
	return scalar(r, to, "a positive integer", func(n *yaml.Node) (int, bool) {
		var f float64 // an integer may be written as 3.0
		err := n.Decode(&f)
		return int(f), err == nil && f > 0 && f == math.Trunc(f) && f < 1<<31 && !isString(n)
	})
}

func (r *reader) number(to *float64) value {
	return scalar(r, to, "a positive number", func(n *yaml.Node) (float64, bool) {
		var f float64
		err := n.Decode(&f)
		return f, err == nil && f > 0 && !isString(n)
	})
}

func (r *reader) timeout(to *time.Duration) value { return r.duration(to, 1, "", 0) }

// duration reads a duration of at least least, or a word for another value.
func (r *reader) duration(to *time.Duration, least time.Duration, word string, special time.Duration) value {
	must := `a duration with a unit, such as "1.5s"`
	if least > 0 {
		must = "a positive" + must[1:]
	}
	if word != "" {
		must += ", or " + word
	}
	return scalar(r, to, must, func(n *yaml.Node) (time.Duration, bool) {
		if word != "" && n.Value == word {
			return special, true
		}
		d, err := time.ParseDuration(n.Value)
		return d, err == nil && d >= least && isString(n)
	})
}

// word reads one of some words.
func word[T any](r *reader, to *T, words map[string]T) value {
	return scalar(r, to, "one of "+names(words), func(n *yaml.Node) (T, bool) {
		v, ok := words[n.Value]
		return v, ok
	})
}

func (r *reader) codes(to *[]codes.Code) value {
	return func(at place) {
		*to = []codes.Code{} // a list that is empty is not one that is not set
		r.list(at, func(at place) {
			c := codes.Unavailable
			scalar(r, &c, "the name of the gRPC status code of an error, such as UNAVAILABLE", func(n *yaml.Node) (c codes.Code, ok bool) {
				err := c.UnmarshalJSON([]byte(strconv.Quote(n.Value)))
				return c, err == nil && c != codes.OK
			})(at)
			*to = append(*to, c)
		})
	}
}

// names returns the keys of a map in order.
func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }
