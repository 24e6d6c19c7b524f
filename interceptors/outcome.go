package interceptors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// replayedKey says of a reply that its outcome was stored earlier.
const replayedKey = "idempotency-replayed"

// encode returns the encoded reply of a handler that has succeeded. If it cannot be encoded,
// neither the store nor gRPC can take it, and the call has failed.
func (c *claim) encode(reply any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	message, ok := reply.(proto.Message)
	if !ok {
		return nil, newError(codes.Internal, ReasonResponseInvalid, fmt.Sprintf("the handler's response is a %T, which is not a protobuf message", reply))
	}
	response, err := proto.Marshal(message)
	if err != nil {
		return nil, newError(codes.Internal, ReasonResponseInvalid, "the handler's response cannot be encoded: "+err.Error())
	}
	return response, nil
}

// record returns the record of what a handler returned and set, or false if the
// outcome is not one to keep.
func (c *claim) record(response []byte, err error, held *heldMetadata) ([]byte, bool) {
	o := &idempotency.Outcome{Header: ownMetadata(held.header), Trailer: ownMetadata(held.trailer)}
	if !c.m.keeps(err) {
		return nil, false
	}
	if err != nil {
		o.Status = statusOf(err).Proto()
		o.Status.Message = strings.ToValidUTF8(o.Status.GetMessage(), "\uFFFD") // which is all that can be kept
	} else {
		o.Response, o.ResponseType = response, string(c.m.response.Descriptor().FullName())
	}
	record, err := c.keyed.Codec.Encode(c.claim.ID, o)
	if err != nil || len(record) > c.keyed.MaxOutcome {
		// What is left can be encoded. Were it not so, no record at all would keep the
		// call from being made again.
		record, _ = c.keyed.Codec.Encode(c.claim.ID, o.Shortened())
	}
	return record, true
}

// keeps reports whether the outcome of a handler that returned err is one to keep.
func (k *keyedMethod) keeps(err error) bool {
	if err == nil {
		return true
	}
	code := statusOf(err).Code()
	return code != codes.OK && (idempotency.IsFinal(err) || slices.Contains(k.Codes, code))
}

// statusOf returns the status that gRPC sends for an error of a handler's.
func statusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.FromContextError(err)
}

// replay answers with a stored outcome.
func (c *claim) replay(record []byte) (any, error) {
	o, err := c.keyed.Codec.Decode(c.claim.ID, record)
	if err != nil {
		return nil, c.unreadable(err)
	}
	var reply proto.Message
	if o.Status == nil && !o.ResponseOmitted {
		if o.ResponseType != string(c.m.response.Descriptor().FullName()) && !slices.Contains(c.m.Aliases, o.ResponseType) {
			return nil, c.unreadable(errors.New("its response is a " + o.ResponseType + ", which is neither the response of the method nor among ResponseAliases"))
		}
		reply = c.m.response.New().Interface()
		if err := proto.Unmarshal(o.Response, reply); err != nil {
			return nil, c.unreadable(err)
		}
	}
	c.became = keyReplayed
	if c.waits > 0 {
		c.became = keyJoined
	}
	c.replayed = true
	marker := metadata.Pairs(replayedKey, "true")
	// Setting metadata fails only if a header was sent, which it was not.
	if len(o.Header) > 0 {
		_ = grpc.SetHeader(&c.request, o.Header)
	}
	if len(o.Trailer) > 0 {
		_ = grpc.SetTrailer(&c.request, o.Trailer)
	}
	switch {
	case o.Status != nil:
		c.final(status.ErrorProto(o.Status))
		_ = grpc.SetTrailer(&c.request, marker)
		return nil, status.ErrorProto(o.Status)
	case o.ResponseOmitted:
		_ = grpc.SetTrailer(&c.request, marker)
		return nil, newError(codes.AlreadyExists, ReasonResponseOmitted, "the call was made, and its response was too large to keep")
	default:
		_ = grpc.SetHeader(&c.request, marker)
		return reply, nil
	}
}

// unreadable returns the error of a call whose stored outcome cannot be read.
func (c *claim) unreadable(err error) error {
	c.storeFailed(stepBegin, err)
	return c.refused(idempotency.ErrCorrupt)
}

// heldMetadata holds back the metadata that a handler sets until it is known
// that its outcome counts. Calls of the handler's may use it at the same time.
type heldMetadata struct {
	grpc.ServerTransportStream // nil outside of gRPC's own server

	mu              sync.Mutex
	closed          bool
	header, trailer metadata.MD // not changed any more when it is closed
}

var errReturned = errors.New("hopbound: the handler has returned")

func holdMetadata(ctx context.Context) *heldMetadata {
	return &heldMetadata{ServerTransportStream: grpc.ServerTransportStreamFromContext(ctx)}
}

// SetHeader holds metadata for the header.
func (h *heldMetadata) SetHeader(md metadata.MD) error { return h.hold(&h.header, md) }

// SendHeader does the same: the header goes with the outcome.
func (h *heldMetadata) SendHeader(md metadata.MD) error { return h.SetHeader(md) }

// SetTrailer holds metadata for the trailer.
func (h *heldMetadata) SetTrailer(md metadata.MD) error { return h.hold(&h.trailer, md) }

func (h *heldMetadata) hold(all *metadata.MD, md metadata.MD) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errReturned
	}
	*all = metadata.Join(*all, md)
	return nil
}

// close ends the time in which the handler can set metadata.
func (h *heldMetadata) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// pass passes on what was held, after close.
func (h *heldMetadata) pass() {
	if h.ServerTransportStream == nil {
		return
	}
	if header := ownMetadata(h.header); len(header) > 0 {
		_ = h.ServerTransportStream.SetHeader(header)
	}
	if trailer := ownMetadata(h.trailer); len(trailer) > 0 {
		_ = h.ServerTransportStream.SetTrailer(trailer)
	}
}

// Method returns the name of the method, or nothing outside of gRPC's own server.
func (h *heldMetadata) Method() string {
	if h.ServerTransportStream == nil {
		return ""
	}
	return h.ServerTransportStream.Method()
}

// ownMetadata returns metadata without what is not the handler's own.
func ownMetadata(md metadata.MD) metadata.MD {
	if len(md) == 0 {
		return nil
	}
	md = md.Copy()
	delete(md, replayedKey)
	delete(md, wire.ReportKey)
	return md
}
