package once

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// replayedKey is the metadata key of a reply whose outcome was stored earlier.
const replayedKey = "idempotency-replayed"

// encode returns the encoded reply of a handler that has succeeded. If the reply cannot be encoded,
// neither the store nor gRPC can use it, and encode returns the error of the call.
func encode(reply any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	message, ok := reply.(proto.Message)
	if !ok {
		return nil, hoperr.New(codes.Internal, hoperr.ResponseInvalid, fmt.Sprintf("the handler's response is a %T, which is not a protobuf message", reply))
	}
	response, err := proto.Marshal(message)
	if err != nil {
		return nil, hoperr.New(codes.Internal, hoperr.ResponseInvalid, "the handler's response cannot be encoded: "+err.Error())
	}
	return response, nil
}

// recordOf returns the encoded outcome of a handler, with the metadata that it has set, or false if
// the outcome is not stored.
func (c *claim) recordOf(response []byte, err error, held *heldMetadata) ([]byte, bool) {
	m, settings := c.call.Method, c.server.settings
	if !m.stores(err) {
		return nil, false
	}
	o := &idempotency.Outcome{Header: ownMetadata(held.header), Trailer: ownMetadata(held.trailer)}
	o.TraceID, o.SpanID = c.call.Request.Telemetry.Span()
	if err != nil {
		o.Status = hoperr.Status(err).Proto()
		o.Status.Message = strings.ToValidUTF8(o.Status.GetMessage(), "\uFFFD") // protobuf encodes nothing else
	} else {
		o.Response, o.ResponseType = response, string(m.response.Descriptor().FullName())
	}
	record, err := settings.Codec.Encode(c.claim.ID, o)
	if err != nil || len(record) > settings.MaxOutcome {
		// The rest can be encoded. Without any record, the next call would run the handler again.
		record, _ = settings.Codec.Encode(c.claim.ID, o.Shortened())
	}
	return record, true
}

// stores reports whether the outcome of a handler that has returned err is stored.
func (m *Method) stores(err error) bool {
	if err == nil {
		return true
	}
	code := hoperr.Code(err)
	return code != codes.OK && (idempotency.IsFinal(err) || slices.Contains(m.Codes, code))
}

// replay returns a stored outcome.
func (c *claim) replay(record []byte) (any, error) {
	o, err := c.server.settings.Codec.Decode(c.claim.ID, record)
	if err != nil {
		return nil, c.unreadable(err)
	}
	reply, err := c.response(o)
	if err != nil {
		return nil, c.unreadable(err)
	}
	c.outcome, c.replayed = telemetry.KeyReplayed, true
	c.call.Request.Telemetry.Replays(o.TraceID, o.SpanID)
	if c.waits > 0 {
		c.outcome = telemetry.KeyJoined
	}
	request := c.call.Request
	marker := metadata.Pairs(replayedKey, "true")
	// Setting metadata fails only if the header was sent, which it was not.
	if len(o.Header) > 0 {
		_ = grpc.SetHeader(request, o.Header)
	}
	if len(o.Trailer) > 0 {
		_ = grpc.SetTrailer(request, o.Trailer)
	}
	switch {
	case o.Status != nil:
		request.Downstream.Overrule(-1)
		_ = grpc.SetTrailer(request, marker)
		return nil, status.ErrorProto(o.Status)
	case o.ResponseOmitted:
		_ = grpc.SetTrailer(request, marker)
		return nil, hoperr.New(codes.AlreadyExists, hoperr.ResponseOmitted, "the call was made, and its response was too large to store")
	default:
		_ = grpc.SetHeader(request, marker)
		return reply, nil
	}
}

// response returns the response of a stored outcome, or nil if there is none.
func (c *claim) response(o *idempotency.Outcome) (proto.Message, error) {
	if o.Status != nil || o.ResponseOmitted {
		return nil, nil //nolint:nilnil // none
	}
	m := c.call.Method
	if o.ResponseType != string(m.response.Descriptor().FullName()) && !slices.Contains(m.Aliases, o.ResponseType) {
		return nil, errors.New("its response is a " + o.ResponseType + ", which is neither the response of the method nor among ResponseAliases")
	}
	reply := m.response.New().Interface()
	return reply, proto.Unmarshal(o.Response, reply)
}

// unreadable returns the error of a call whose stored outcome cannot be read.
func (c *claim) unreadable(err error) error {
	c.storeFailed(telemetry.StepBegin, err)
	return c.storeError(idempotency.ErrCorrupt)
}
