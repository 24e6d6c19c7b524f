package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// scanner reads JSON from a stream. It keeps at most one value in memory. Its methods return an error only if the
// rest of the document cannot be read.
type scanner struct {
	in        *bufio.Reader
	limits    limits
	line      int  // number of the line of the next byte, from 1
	lineStart bool // whether the next byte is the first of its line
	depth     int  // objects and arrays that are open
	list      bool // whether the document is an array
	text      []byte
}

// piece is a JSON value. Only its brackets and strings have been checked.
type piece struct {
	text []byte // valid until the next value is read
	line int    // in which it begins
	err  error  // set if it exceeds a limit; text is incomplete then
}

func (p piece) decode(to any) error {
	if p.err != nil {
		return p.err
	}
	return json.Unmarshal(p.text, to)
}

func newScanner(in io.Reader, limits limits) *scanner {
	s := &scanner{in: bufio.NewReaderSize(in, 1<<16), limits: limits, line: 1, lineStart: true}
	if mark, _ := s.in.Peek(3); string(mark) == "\xef\xbb\xbf" { // a byte order mark
		_, _ = s.in.Discard(3)
	}
	return s
}

// next reads a byte.
func (s *scanner) next() (byte, error) {
	b, err := s.in.ReadByte()
	if err != nil {
		return 0, err
	}
	s.lineStart = b == '\n'
	if s.lineStart {
		s.line++
	}
	return b, nil
}

// peek skips white space and returns the next byte without reading it.
func (s *scanner) peek() (byte, error) {
	for {
		ahead, err := s.in.Peek(1)
		if err != nil {
			return 0, err
		}
		if b := ahead[0]; !isSpace(b) {
			return b, s.restart()
		}
		if _, err := s.next(); err != nil {
			return 0, err
		}
	}
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

// restart returns an error if a document begins before the last one has ended, because its writer stopped in
// the middle of a line. A line can begin with a document inside another one only in an array of documents.
func (s *scanner) restart() error {
	if !s.lineStart || s.depth == 0 || s.depth == 1 && s.list {
		return nil
	}
	if ahead, _ := s.in.Peek(maxStart); !isStart(ahead) {
		return nil
	}
	return fmt.Errorf("another document begins in line %d", s.line)
}

// maxStart is the number of bytes from which isStart recognizes the start of a document.
const maxStart = 24

// isStart reports whether a line begins with a document of a known format, perhaps written over several lines.
func isStart(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("{"))
	if !ok {
		return false
	}
	rest = bytes.TrimLeft(rest, " \t\r\n")
	for _, first := range [...]string{`"resourceSpans":`, `"Name":`, `"data":`} {
		if bytes.HasPrefix(rest, []byte(first)) {
			return true
		}
	}
	return false
}

// expect reads the next byte, which must be want.
func (s *scanner) expect(want byte) error {
	b, err := s.peek()
	if err != nil {
		return err
	}
	if b != want {
		return fmt.Errorf("invalid JSON: %q instead of %q", b, want)
	}
	_, err = s.next()
	return err
}

// object calls read for each field of an object. read must read the field's value.
func (s *scanner) object(read func(name string) error) error {
	return s.each('{', '}', func() error {
		name, err := s.name()
		if err != nil {
			return err
		}
		return read(name)
	})
}

// array calls read for each element of an array. read must read the element.
func (s *scanner) array(read func() error) error { return s.each('[', ']', read) }

func (s *scanner) each(open, end byte, read func() error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	if s.depth == 0 {
		s.list = open == '['
	}
	s.depth++
	for first := true; ; first = false {
		b, err := s.peek()
		if err != nil {
			return err
		}
		if b == end {
			s.depth--
			return s.expect(end)
		}
		if !first {
			if err := s.expect(','); err != nil {
				return err
			}
		}
		if err := read(); err != nil {
			return err
		}
	}
}

// name reads the name of a field and the colon. It returns "" for a name that exceeds a limit; no field that
// is read has such a name.
func (s *scanner) name() (string, error) {
	if b, err := s.peek(); err != nil || b != '"' {
		return "", s.expect('"')
	}
	p, err := s.value()
	if err != nil {
		return "", err
	}
	var name string
	if p.err == nil {
		if err := p.decode(&name); err != nil {
			return "", err
		}
	}
	return name, s.expect(':')
}

// value reads a value of any kind. It counts nesting levels instead of using recursion.
func (s *scanner) value() (piece, error) {
	b, err := s.peek()
	if err != nil {
		return piece{}, err
	}
	if strings.IndexByte("}],:", b) >= 0 {
		return piece{}, fmt.Errorf("invalid JSON: %q instead of a value", b)
	}
	p := piece{line: s.line}
	s.text = s.text[:0]
	for outer := s.depth; ; {
		if err := s.token(outer); err != nil {
			return piece{}, err
		}
		if s.depth > s.limits.nesting && p.err == nil {
			p.err = fmt.Errorf("nested deeper than %d", s.limits.nesting)
		}
		if s.depth == outer {
			break
		}
	}
	if len(s.text) > s.limits.value {
		p.err = fmt.Errorf("larger than %d bytes", s.limits.value)
	}
	p.text = s.text
	return p, nil
}

// token reads a bracket, a string or a single byte. If no bracket is open that was opened after depth was outer,
// it reads a whole number or word instead of a byte.
func (s *scanner) token(outer int) error {
	if err := s.restart(); err != nil {
		return err
	}
	b, err := s.next()
	if err != nil {
		return err
	}
	s.keep(b)
	switch b {
	case '"':
		return s.rest()
	case '{', '[':
		s.depth++
	case '}', ']':
		s.depth--
	default:
		if s.depth == outer {
			return s.word()
		}
	}
	return nil
}

// rest reads the rest of a string.
func (s *scanner) rest() error {
	for {
		if _, err := s.in.Peek(1); err != nil {
			return err
		}
		ahead, err := s.in.Peek(s.in.Buffered())
		if err != nil {
			return err
		}
		n := bytes.IndexFunc(ahead, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' })
		if n < 0 {
			s.take(ahead)
			continue
		}
		last := ahead[n]
		if last < ' ' {
			s.take(ahead[:n])
			return fmt.Errorf("invalid JSON: %q in a string", last)
		}
		s.take(ahead[:n+1])
		if last == '"' {
			return nil
		}
		if escaped, err := s.in.Peek(1); err == nil && escaped[0] >= ' ' {
			s.take(escaped)
		}
	}
}

// word reads the rest of a number or a word such as true.
func (s *scanner) word() error {
	for {
		ahead, err := s.in.Peek(1)
		if err == io.EOF { //nolint:errorlint // Peek does not wrap it
			return nil
		}
		if err != nil || isSpace(ahead[0]) || strings.IndexByte(`,:{}[]"`, ahead[0]) >= 0 {
			return err
		}
		b, err := s.next()
		if err != nil {
			return err
		}
		s.keep(b)
	}
}

// take reads bytes that were peeked, and keeps them. None of them ends a line.
func (s *scanner) take(ahead []byte) {
	s.keep(ahead...)
	_, _ = s.in.Discard(len(ahead))
}

// keep appends to the text of a value. It keeps one byte more than the limit, which shows that the limit is
// exceeded.
func (s *scanner) keep(text ...byte) {
	room := s.limits.value + 1 - len(s.text)
	s.text = append(s.text, text[:min(len(text), room)]...)
}

// resume skips the rest of a document that cannot be read, until the next line with which a document may begin.
func (s *scanner) resume() error {
	s.depth = 0
	for {
		ahead, err := s.in.Peek(1)
		if err != nil {
			return err
		}
		if s.lineStart && (ahead[0] == '{' || ahead[0] == '[') {
			return nil
		}
		if _, err := s.next(); err != nil {
			return err
		}
	}
}
