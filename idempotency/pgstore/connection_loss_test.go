package pgstore_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// cutter is a proxy that cuts a connection when a client sends a word: before the
// server gets the word, or after the server has answered or, if the cutter is hasty,
// as soon as the server has the word. A hasty cutter also drops the request that
// would cancel the statement.
type cutter struct {
	listener net.Listener
	target   string
	word     atomic.Pointer[string]
	before   atomic.Bool
	hasty    atomic.Bool
	wg       sync.WaitGroup
}

// cancelRequest is the beginning of the message with which a client asks, on a
// separate connection, for a statement to be cancelled.
var cancelRequest = []byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) pass(client net.Conn) {
	server, err := net.Dial("tcp", c.target) //nolint:noctx // it takes no time
	if err != nil {
		_ = client.Close()
		return
	}
	var cut atomic.Bool
	c.wg.Go(func() { // answers
		buf := make([]byte, 1<<16)
		for {
			n, err := server.Read(buf)
			if err != nil || cut.Load() {
				break
			}
			if _, err := client.Write(buf[:n]); err != nil {
				break
			}
		}
		_ = client.Close()
		_ = server.Close()
	})
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		if word := c.word.Load(); word != nil && bytes.Contains(buf[:n], []byte(*word)) {
			cut.Store(true)
			if c.before.Load() {
				break
			}
		}
		if c.hasty.Load() && bytes.HasPrefix(buf[:n], cancelRequest) {
			break
		}
		_, err = server.Write(buf[:n])
		hasAll := bytes.HasSuffix(buf[:n], []byte("S\x00\x00\x00\x04")) // Sync, which ends what is sent together
		if err != nil || cut.Load() && c.hasty.Load() && hasAll {
			break
		}
	}
	if cut.Load() && c.hasty.Load() {
		_ = client.Close()
	}
	if cut.Load() && !c.before.Load() {
		_, _ = io.Copy(io.Discard, server)
	}
	_ = client.Close()
	_ = server.Close()
}
