package hophttp

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// lifetime is the context of a request below. Until the header of the response arrives, it ends with the attempt. From
// then on, it ends with the user's request, because the body is read after the attempt.
type lifetime struct {
	context.Context
	cancel context.CancelFunc
	detach func() bool     // from the attempt
	user   context.Context //nolint:containedctx // of the user's request
}

func newLifetime(attempt, user context.Context) *lifetime {
	ctx, cancel := context.WithCancel(context.WithoutCancel(attempt))
	return &lifetime{Context: ctx, cancel: cancel, detach: context.AfterFunc(attempt, cancel), user: user}
}

func (l *lifetime) end() {
	l.detach()
	l.cancel()
}

// untilClosed ends the lifetime when the user's request ends or the body of the response is closed.
func (l *lifetime) untilClosed(response *http.Response) {
	stop := context.AfterFunc(l.user, l.cancel)
	l.detach()
	if response.StatusCode == http.StatusSwitchingProtocols { // its body is the connection
		return
	}
	response.Body = &body{ReadCloser: response.Body, user: l.user, closed: func() {
		stop()
		l.cancel()
	}}
}

type body struct {
	io.ReadCloser
	user   context.Context //nolint:containedctx // of the user's request
	closed func()
}

// Read reads the body. If the user's request has ended, the error says why.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, context.Canceled) && b.user.Err() != nil {
		err = b.user.Err()
	}
	return n, err
}

// Close closes the body.
func (b *body) Close() error {
	defer b.closed()
	return b.ReadCloser.Close()
}
