package interop_test

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// Header keys as net/http writes them.
const (
	contextHeader  = "Hop-Context"
	reportHeader   = "Hop-Report"
	pushbackHeader = "Grpc-Retry-Pushback-Ms"
	keyHeader      = "Idempotency-Key"
	timeoutHeader  = "Grpc-Timeout"
)

// rewriter is a proxy that rewrites metadata. Its functions may be nil.
type rewriter struct {
	request  func(http.Header)
	trailer  func(http.Header)
	move     []string     // keys that are moved from the trailer to the header
	loseNext atomic.Int64 // replies that the proxy replaces by its own error
}

// start runs the proxy until the test ends.
func (r *rewriter) start(t testing.TB, target string) (address string) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: target})
			if r.request != nil {
				r.request(p.Out.Header)
			}
		},
		Transport:      transport,
		ModifyResponse: r.response,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: proxy, Protocols: protocols}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		transport.CloseIdleConnections()
	})
	return listener.Addr().String()
}

// response rewrites the trailer of a response. If a response has no message, gRPC sends the trailer in the place of the
// header.
func (r *rewriter) response(res *http.Response) error {
	if r.loseNext.Add(-1) >= 0 {
		return errors.New("the reply is lost")
	}
	if res.Header.Get("Grpc-Status") == "" {
		body, err := io.ReadAll(res.Body) // then the trailer is known
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	trailer := res.Trailer
	if len(trailer) == 0 {
		trailer = res.Header
	}
	if r.trailer != nil {
		r.trailer(trailer)
	}
	if len(r.move) == 0 {
		return nil
	}
	if len(res.Trailer) == 0 {
		trailer = http.Header{}
		for _, key := range []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"} {
			if values := res.Header.Values(key); len(values) > 0 {
				trailer[key] = values
				res.Header.Del(key)
			}
		}
		res.Trailer = trailer
	}
	for _, key := range r.move {
		if values := res.Trailer.Values(key); len(values) > 0 {
			res.Header[key] = values
			res.Trailer.Del(key)
		}
	}
	return nil
}
