package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hopbound/hopbound/examples/internal/tree"
	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/genproto/googleapis/rpc/code"
)

// printer prints records.
type printer struct {
	out            io.Writer
	codec          idempotency.Codec
	json, response bool
	printed        int
}

// field is a field of a printed record. Its name is stable between releases.
type field struct {
	name  string
	value any
}

// seconds is a duration. In JSON it is a number of seconds, and the name of its field ends with _seconds.
type seconds time.Duration

// MarshalJSON returns the seconds, rounded to milliseconds.
func (s seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Round(time.Millisecond).Seconds())
}

func (s seconds) String() string { return time.Duration(s).Round(time.Millisecond).String() }

// print prints a record with one Write.
func (p *printer) print(r *idempotency.Record) error {
	var b bytes.Buffer
	if p.json {
		object := map[string]any{}
		for _, f := range p.fields(r) {
			object[f.name] = f.value
		}
		if err := json.NewEncoder(&b).Encode(object); err != nil {
			return err
		}
	} else {
		if p.printed > 0 {
			b.WriteByte('\n')
		}
		for _, f := range p.fields(r) {
			fmt.Fprintf(&b, "%-19s %s\n", strings.TrimSuffix(f.name, "_seconds"), tree.Printable(fmt.Sprint(f.value)))
		}
	}
	p.printed++
	_, err := p.out.Write(b.Bytes())
	return err
}

// fields returns the fields that are printed of a record.
func (p *printer) fields(r *idempotency.Record) []field {
	left := "lease_left_seconds" // negative if the lease has expired
	if r.State != idempotency.Pending {
		left = "retention_left_seconds"
	}
	fields := []field{
		{"id", r.ID.String()},
		{"method", r.Method},
		{"key_hash", r.KeyHash},
		{"state", r.State},
		{"owner", r.Owner},
		{"fence", r.Fence},
		{left, seconds(r.Left)},
		{"age_seconds", seconds(r.Age)},
		{"attempts", r.Attempts},
		{"taken_over", r.TakenOver},
	}
	if len(r.Checkpoint) > 0 {
		text, encoding := p.checkpoint(r)
		fields = append(fields, field{"checkpoint_encoding", encoding}, field{"checkpoint", text})
	}
	if p.response && r.State == idempotency.Done {
		fields = append(fields, p.outcome(r)...)
	}
	return fields
}

// checkpoint returns a record's checkpoint as a text, and the encoding of the text: text, base64, sealed, or
// error if the checkpoint cannot be read.
func (p *printer) checkpoint(r *idempotency.Record) (text, encoding string) {
	raw, err := p.codec.DecodeCheckpoint(r.ID, r.Checkpoint)
	switch {
	case p.sealed(r.Checkpoint):
		return "", "sealed"
	case err != nil:
		return err.Error(), "error"
	case utf8.Valid(raw) && bytes.IndexFunc(raw, isNotPrint) < 0:
		return string(raw), "text"
	default:
		return base64.StdEncoding.EncodeToString(raw), "base64"
	}
}

func isNotPrint(r rune) bool { return !unicode.IsPrint(r) }

// sealed reports whether raw is sealed and no key was given.
func (p *printer) sealed(raw []byte) bool {
	return p.codec.Keys == nil && bytes.HasPrefix(raw, []byte("hbs1")) // the prefix that idempotency.Codec writes
}

// outcome returns the fields of a record's outcome.
func (p *printer) outcome(r *idempotency.Record) []field {
	o, err := p.codec.Decode(r.ID, r.Outcome)
	switch {
	case p.sealed(r.Outcome):
		return []field{{"outcome_error", "sealed"}}
	case err != nil:
		return []field{{"outcome_error", err.Error()}}
	case o.Status == nil:
		return []field{
			{"code", code.Code_OK.String()},
			{"response_type", o.ResponseType},
			{"response_omitted", o.ResponseOmitted}, // because it was too large
			{"response", base64.StdEncoding.EncodeToString(o.Response)},
		}
	}
	details := []string{}
	for _, d := range o.Status.GetDetails() {
		details = append(details, d.GetTypeUrl())
	}
	return []field{
		{"code", code.Code(o.Status.GetCode()).String()},
		{"message", o.Status.GetMessage()},
		{"details", details},
	}
}
