package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// piece is a value of JSON, and where it begins in its file.
type piece struct {
	text []byte
	at   int
}

// fields returns the fields of an object, each under its name.
func (p piece) fields() (map[string]piece, error) {
	fields := map[string]piece{}
	err := p.each('{', func(decoder *json.Decoder) error {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		text, ok := name.(string)
		if !ok {
			return fmt.Errorf("%v is no name", name)
		}
		fields[text], err = p.next(decoder)
		return err
	})
	return fields, err
}

// elements returns the elements of an array. Null, and nothing, have none.
func (p piece) elements() ([]piece, error) {
	if len(p.text) == 0 || string(p.text) == "null" {
		return nil, nil
	}
	var elements []piece
	err := p.each('[', func(decoder *json.Decoder) error {
		element, err := p.next(decoder)
		elements = append(elements, element)
		return err
	})
	return elements, err
}

// each calls read for what is between the brackets, one after another.
func (p piece) each(open json.Delim, read func(decoder *json.Decoder) error) error {
	decoder := json.NewDecoder(bytes.NewReader(p.text))
	first, err := decoder.Token()
	if err != nil {
		return err
	}
	if first != open {
		return fmt.Errorf("%s instead of %v", kindOf(first), open)
	}
	for decoder.More() {
		if err := read(decoder); err != nil {
			return err
		}
	}
	return nil
}

func kindOf(token json.Token) string {
	switch token.(type) {
	case json.Delim:
		return fmt.Sprint(token)
	case string:
		return "a string"
	case float64:
		return "a number"
	case bool:
		return "a boolean"
	default:
		return "null"
	}
}

// next reads a value.
func (p piece) next(decoder *json.Decoder) (piece, error) {
	var text json.RawMessage
	if err := decoder.Decode(&text); err != nil {
		return piece{}, err
	}
	return piece{text: text, at: p.at + int(decoder.InputOffset()) - len(text)}, nil
}

// documents calls found for each value in a file, and broken for each place at
// which there is none: it goes on at the next line that begins with one.
func documents(data []byte, found func(piece), broken func(at int, err error)) {
	for at := 0; at < len(data); {
		decoder := json.NewDecoder(bytes.NewReader(data[at:]))
		value, err := piece{at: at}.next(decoder)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			found(value)
			at += int(decoder.InputOffset())
			continue
		}
		blank := len(data[at:]) - len(bytes.TrimLeft(data[at:], " \t\r\n"))
		broken(at+blank, err)
		next := nextDocument(data[at+blank:])
		if next < 0 {
			return
		}
		at += blank + next
	}
}

// nextDocument returns where the next line begins that may begin a value, or -1.
func nextDocument(data []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(data[at:], '\n')
		if i < 0 {
			return -1
		}
		if at += i + 1; at < len(data) && (data[at] == '{' || data[at] == '[') {
			return at
		}
	}
}
