package idempotency

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// Outcome is the result of a call: a response or a failure, and the metadata that
// its handler set. Repeats of the call get the same.
type Outcome struct {
	// Status is that of a failure, and nil of a success.
	Status *status.Status

	// Response is that of a success, marshalled, and ResponseType the full name
	// of its message. ResponseOmitted says that it was too large to keep.
	Response        []byte
	ResponseType    string
	ResponseOmitted bool

	// Header and Trailer are what the handler set.
	Header, Trailer map[string][]string
}

// shortMessage is how many bytes of a failure's message are kept at least.
const shortMessage = 512

// Shortened returns what is kept of an outcome that is too large: that it was a
// success, or the code of the failure and the beginning of its message.
func (o *Outcome) Shortened() *Outcome {
	if o.Status == nil {
		return &Outcome{ResponseType: o.ResponseType, ResponseOmitted: true}
	}
	message := o.Status.GetMessage()
	message = strings.ToValidUTF8(message[:min(len(message), shortMessage)], "")
	return &Outcome{Status: &status.Status{Code: o.Status.GetCode(), Message: message}}
}

// A record begins with what it is, so that no other bytes are taken for one:
// plain, with a checksum, or sealed, with one of its own.
const (
	magicPlain  = "hbo1"
	magicSealed = "hbs1"
	checksumLen = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Codec turns outcomes into the bytes that a store keeps, and back. The zero
// value does not seal them. It is safe for concurrent use.
type Codec struct {
	// Keys seals outcomes, if it is not nil.
	Keys *KeyRing
}

// Encode returns the record of an outcome. A sealed one can be read only under
// the ID that it was made for.
func (c Codec) Encode(id ID, o *Outcome) ([]byte, error) {
	m := &hopboundv1.Outcome{
		Response: o.Response, ResponseType: o.ResponseType, ResponseOmitted: o.ResponseOmitted,
		Header: toMetadata(o.Header), Trailer: toMetadata(o.Trailer),
	}
	if o.Status != nil {
		raw, err := proto.Marshal(o.Status)
		if err != nil {
			return nil, fmt.Errorf("status of an outcome: %w", err)
		}
		m.Status = raw
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("outcome: %w", err)
	}
	return c.wrap(id[:], body)
}

// EncodeCheckpoint returns what a store keeps of a checkpoint.
func (c Codec) EncodeCheckpoint(id ID, checkpoint []byte) ([]byte, error) {
	return c.wrap(checkpointOf(id), checkpoint)
}

// DecodeCheckpoint reads what EncodeCheckpoint has made, and fails as Decode does.
func (c Codec) DecodeCheckpoint(id ID, raw []byte) ([]byte, error) {
	checkpoint, err := c.open(checkpointOf(id), raw)
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint: %w", ErrCorrupt, err)
	}
	return checkpoint, nil
}

// checkpointOf returns what a checkpoint belongs to, so that it is not taken for an outcome.
func checkpointOf(id ID) []byte { return append(id[:], "checkpoint"...) }

// wrap seals a body or adds a checksum, together with what it belongs to.
func (c Codec) wrap(of, body []byte) ([]byte, error) {
	if c.Keys != nil {
		return c.Keys.seal(append(make([]byte, 0, len(body)+sealedExtra), magicSealed...), of, body)
	}
	record := append(append(make([]byte, 0, len(magicPlain)+len(body)+checksumLen), magicPlain...), body...)
	return binary.BigEndian.AppendUint32(record, checksum(of, body)), nil
}

// Decode reads a record. An error wraps [ErrCorrupt] if the bytes are no record,
// are damaged, were made for another ID, or are sealed with a key that the ring
// lacks. A codec with keys refuses a record that is not sealed, which may be
// forged.
func (c Codec) Decode(id ID, record []byte) (*Outcome, error) {
	body, err := c.open(id[:], record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	var m hopboundv1.Outcome
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	o := &Outcome{
		Response: m.GetResponse(), ResponseType: m.GetResponseType(), ResponseOmitted: m.GetResponseOmitted(),
		Header: fromMetadata(m.GetHeader()), Trailer: fromMetadata(m.GetTrailer()),
	}
	if len(m.GetStatus()) > 0 {
		o.Status = &status.Status{}
		if err := proto.Unmarshal(m.GetStatus(), o.Status); err != nil {
			return nil, fmt.Errorf("%w: its status: %w", ErrCorrupt, err)
		}
	}
	return o, nil
}

func (c Codec) open(of, record []byte) ([]byte, error) {
	if len(record) < len(magicPlain) {
		return nil, fmt.Errorf("%d bytes are no record", len(record))
	}
	magic, rest := string(record[:len(magicPlain)]), record[len(magicPlain):]
	switch {
	case magic == magicSealed && c.Keys != nil:
		return c.Keys.open(of, rest)
	case magic == magicSealed:
		return nil, errNoKeys
	case magic != magicPlain:
		return nil, fmt.Errorf("it begins with %q", magic)
	case c.Keys != nil:
		return nil, errNotSealed
	case len(rest) < checksumLen:
		return nil, errTooShort
	}
	body, sum := rest[:len(rest)-checksumLen], binary.BigEndian.Uint32(rest[len(rest)-checksumLen:])
	if checksum(of, body) != sum {
		return nil, errChecksum
	}
	return body, nil
}

func checksum(of, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(of, castagnoli), castagnoli, body)
}

func toMetadata(md map[string][]string) []*hopboundv1.Metadata {
	all := make([]*hopboundv1.Metadata, 0, len(md))
	for key, values := range md {
		m := &hopboundv1.Metadata{Key: key}
		for _, v := range values {
			m.Values = append(m.Values, []byte(v))
		}
		all = append(all, m)
	}
	return all
}

func fromMetadata(all []*hopboundv1.Metadata) map[string][]string {
	if len(all) == 0 {
		return nil
	}
	md := make(map[string][]string, len(all))
	for _, m := range all {
		for _, v := range m.GetValues() {
			md[m.GetKey()] = append(md[m.GetKey()], string(v))
		}
	}
	return md
}
