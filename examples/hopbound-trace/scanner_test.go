package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// The scanner reads each valid value whole, and nothing after it.
func FuzzValue(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,-2.5e3,"x\"\\",true,null,{}],"b":{"c":[[]]}}`, "\r\n\t [ 1 ,\n2 ] ", `"\u00e9é"`, "12", "null", "", "{", "[1,]", `{"a" 1}`, "\"\x00\"", "[}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newScanner(iotest.OneByteReader(bytes.NewReader(data)), defaultLimits())
		p, err := s.value()
		if !json.Valid(data) {
			return // it is enough that value returns
		}
		want := bytes.Trim(data, " \t\r\n")
		if err != nil || p.err == nil && !bytes.Equal(p.text, want) {
			t.Fatalf("%q, %v, want %q", p.text, err, want)
		}
		if _, err := s.peek(); err != io.EOF { //nolint:errorlint // as it is
			t.Errorf("%v after the value", err)
		}
		if lines := 1 + bytes.Count(data, []byte("\n")); s.line != lines || s.depth != 0 {
			t.Errorf("line %d of %d, depth %d", s.line, lines, s.depth)
		}
	})
}

func TestLimitsOfAValue(t *testing.T) {
	t.Parallel()
	limits := limits{value: 10, nesting: 3}
	for _, tc := range []struct{ text, want string }{
		{`"12345678"`, ""},
		{`"123456789"`, "larger than 10 bytes"},
		{`1234567890`, ""},
		{`12345678901`, "larger than 10 bytes"},
		{`[[[0]]]`, ""},
		{`[[[[0]]]]`, "nested deeper than 3"},
		{`{"a":[ "]]]}}}" ]}`, "larger than 10 bytes"},
	} {
		s := newScanner(strings.NewReader(tc.text+",7"), limits)
		p, err := s.value()
		got := ""
		if p.err != nil {
			got = p.err.Error()
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.text, got, err, tc.want)
		}
		if err := s.expect(','); err != nil {
			t.Errorf("%s: after it: %v", tc.text, err)
		}
	}
}

// A value may begin anywhere in the buffer, and the next bytes may move it.
func TestValuesAtTheEndOfTheBuffer(t *testing.T) {
	t.Parallel()
	for n := range 100 {
		s := newScanner(strings.NewReader(""), defaultLimits())
		s.in = bufio.NewReaderSize(strings.NewReader(strings.Repeat(" ", n)+`[["first",`+"\n"+`{"second": [3]}, 4 ]]`), 32)
		var got []string
		err := s.array(func() error {
			return s.array(func() error {
				p, err := s.value()
				got = append(got, string(p.text))
				return err
			})
		})
		if want := []string{`"first"`, `{"second": [3]}`, "4"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("after %d spaces: %q, %v", n, got, err)
		}
	}
}
