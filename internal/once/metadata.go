package once

import (
	"context"
	"errors"
	"sync"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// heldMetadata holds back the metadata that a handler sets until it is known that the
// handler's outcome is returned. It is safe for concurrent use.
type heldMetadata struct {
	grpc.ServerTransportStream // nil outside of gRPC's own server

	mu              sync.Mutex
	closed          bool
	header, trailer metadata.MD // never change once it is closed
}

var errReturned = errors.New("hopbound: the handler has returned")

func holdMetadata(ctx context.Context) *heldMetadata {
	return &heldMetadata{ServerTransportStream: grpc.ServerTransportStreamFromContext(ctx)}
}

// SetHeader holds metadata of the header.
func (h *heldMetadata) SetHeader(md metadata.MD) error { return h.hold(&h.header, md) }

// SendHeader holds metadata of the header too, because the header is sent with the outcome.
func (h *heldMetadata) SendHeader(md metadata.MD) error { return h.SetHeader(md) }

// SetTrailer holds metadata of the trailer.
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

// close makes it an error to set metadata from now on.
func (h *heldMetadata) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// pass passes on what was held. It must be called after close.
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

// Method returns the name of the method, or the empty string outside of gRPC's own server.
func (h *heldMetadata) Method() string {
	if h.ServerTransportStream == nil {
		return ""
	}
	return h.ServerTransportStream.Method()
}

// ownMetadata returns metadata without the keys that only Hopbound sets.
func ownMetadata(md metadata.MD) metadata.MD {
	if len(md) == 0 {
		return nil
	}
	md = md.Copy()
	delete(md, replayedKey)
	delete(md, wire.ReportKey)
	return md
}
