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

// Outcome is the result of a call, which repeats of the call get too: a response or a failure, and
// the metadata that the handler set.
type Outcome struct {
	// Status is the status of a failure. It is nil for a success.
	Status *status.Status

	// Response is the marshalled response of a success, and ResponseType the full name of its
	// message. ResponseOmitted is whether the response was too large to be stored.
	Response        []byte
	ResponseType    string
	ResponseOmitted bool

	// Header and Trailer are the metadata that the handler set.
	Header, Trailer map[string][]string

	// TraceID and SpanID identify the span of the run that produced the outcome. They are zero if its
	// trace was not sampled.
	TraceID [16]byte
	SpanID  [8]byte
}

// shortMessage is how many bytes of a failure's message are stored if the outcome is too large.
const shortMessage = 512

// Shortened returns what is stored of an outcome that is too large: that it is a success, and the
// type of the response; or the code of the failure and the beginning of its message. It is for
// authors of other transports.
func (o *Outcome) Shortened() *Outcome {
	if o.Status == nil {
		return &Outcome{ResponseType: o.ResponseType, ResponseOmitted: true, TraceID: o.TraceID, SpanID: o.SpanID}
	}
	message := o.Status.GetMessage()
	message = strings.ToValidUTF8(message[:min(len(message), shortMessage)], "")
	return &Outcome{Status: &status.Status{Code: o.Status.GetCode(), Message: message}, TraceID: o.TraceID, SpanID: o.SpanID}
}

// The bytes that a codec makes begin with their kind: plain, with a checksum, or sealed, which
// includes an authentication tag.
const (
	magicPlain  = "hbo1"
	magicSealed = "hbs1"
	checksumLen = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Codec encodes outcomes and checkpoints into the bytes that a store keeps, and decodes them. It is
// for operators' tools and authors of other transports. The zero value adds a checksum, and does not
// seal. A Codec is safe for concurrent use.
type Codec struct {
	// Keys seals outcomes and checkpoints, unless it is nil.
	Keys *KeyRing
}

// Encode returns the bytes of an outcome. They can be decoded only with the same ID.
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
	if o.TraceID != [16]byte{} {
		m.TraceId, m.SpanId = o.TraceID[:], o.SpanID[:]
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("outcome: %w", err)
	}
	return c.wrap(id[:], body)
}

// EncodeCheckpoint returns the bytes of a checkpoint. They can be decoded only with the same ID.
func (c Codec) EncodeCheckpoint(id ID, checkpoint []byte) ([]byte, error) {
	return c.wrap(checkpointOf(id), checkpoint)
}

// DecodeCheckpoint reverses EncodeCheckpoint. It returns the same errors as Decode.
func (c Codec) DecodeCheckpoint(id ID, raw []byte) ([]byte, error) {
	checkpoint, err := c.open(checkpointOf(id), raw)
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint: %w", ErrCorrupt, err)
	}
	return checkpoint, nil
}

// checkpointOf returns the associated data of a checkpoint, which differs from that of an outcome.
func checkpointOf(id ID) []byte { return append(id[:], "checkpoint"...) }

// wrap seals a body or adds a checksum. Both cover the associated data as well.
func (c Codec) wrap(of, body []byte) ([]byte, error) {
	if c.Keys != nil {
		return c.Keys.seal(append(make([]byte, 0, len(body)+sealedExtra), magicSealed...), of, body)
	}
	record := append(append(make([]byte, 0, len(magicPlain)+len(body)+checksumLen), magicPlain...), body...)
	return binary.BigEndian.AppendUint32(record, checksum(of, body)), nil
}

// Decode reverses Encode. It returns an error that wraps [ErrCorrupt] if the bytes are not an
// outcome, are damaged, were made for another ID, or are sealed with a key that the ring lacks. A
// codec with keys also returns it for bytes that are not sealed, because they may be forged.
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
	copy(o.TraceID[:], m.GetTraceId())
	copy(o.SpanID[:], m.GetSpanId())
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
		return nil, fmt.Errorf("it has only %d bytes", len(record))
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
