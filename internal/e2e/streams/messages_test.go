package streams_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// frame is a message that a proxy passes on without looking into it.
type frame struct{ data []byte }

// frames is the codec of such a proxy.
type frames struct{}

// Marshal returns a copy: gRPC goes on reading what it returns.
func (frames) Marshal(m any) ([]byte, error) {
	return slices.Clone(m.(*frame).data), nil //nolint:errcheck // a test has no others
}

func (frames) Unmarshal(data []byte, m any) error {
	m.(*frame).data = slices.Clone(data) //nolint:errcheck // a test has no others
	return nil
}
func (frames) Name() string { return "proto" }

// An upload reads a file into one buffer, and sends it piece by piece. What a second
// attempt sends is what was sent, and not what is in the buffer by then.
func TestReplayedMessagesAreWhatWasSent(t *testing.T) {
	t.Parallel()
	for kind, send := range map[string]func(s harness.Stream, buffer []byte, piece string) error{
		"a message that is used again": func(s harness.Stream, _ []byte, piece string) error {
			m, _ := uploads.LoadOrStore(s.ClientStream, &testv1.UploadRequest{})
			m.(*testv1.UploadRequest).Text = piece //nolint:errcheck // a test has no others
			return s.SendMsg(m)
		},
		"frames of one buffer": func(s harness.Stream, buffer []byte, piece string) error {
			data, err := proto.Marshal(&testv1.UploadRequest{Text: piece})
			if err != nil {
				return err
			}
			return s.SendMsg(&frame{buffer[:copy(buffer, data)]})
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int64
				n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
					if attempts.Add(1) < 3 {
						_, _ = s.Recv()
						_, _ = s.Recv()
						return harness.ErrUnavailable
					}
					return harness.ReplyJoined(s, ss)
				})
				var opts []grpc.CallOption
				if strings.HasPrefix(kind, "frames") {
					opts = append(opts, grpc.ForceCodec(frames{}))
				}
				s, err := harness.Kinds()[1].Open(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...), opts...)
				if err != nil {
					t.Fatal(err)
				}
				buffer := make([]byte, 64)
				for i := range 5 {
					if err := send(s, buffer, fmt.Sprint("piece ", i)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * ms) // a slow disk
				}
				_ = s.CloseSend()
				reply := &testv1.UploadResponse{}
				if len(opts) > 0 {
					raw := &frame{}
					if err = s.RecvMsg(raw); err == nil {
						err = proto.Unmarshal(raw.data, reply)
					}
				} else {
					err = s.RecvMsg(reply)
				}
				if want := "piece 0 piece 1 piece 2 piece 3 piece 4"; err != nil || reply.GetText() != want || attempts.Load() != 3 {
					t.Errorf("%q and %v after %d attempts, want %q after 3", reply.GetText(), err, attempts.Load(), want)
				}
			})
		})
	}
}

var uploads sync.Map // the message of each stream of a test

// The application may change a request as soon as SendMsg has returned, also while
// attempts are made at the same time.
func TestHedgedStreamSendsWhatWasSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			requests, err := s.Requests()
			mu.Lock()
			got = append(got, requests...)
			first := len(got) == 1
			mu.Unlock()
			if first {
				<-ss.Context().Done()
				return ss.Context().Err()
			}
			if err != nil {
				return err
			}
			return s.Send("reply")
		})
		cc := n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: 10 * ms})).DialOptions()...)
		s, err := harness.Kinds()[0].Open(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		request := &testv1.WatchRequest{Text: "sent"}
		if err := s.SendMsg(request); err != nil {
			t.Fatal(err)
		}
		request.Text = "changed"
		if _, err := s.All(); err != nil || !slices.Equal(got, []string{"sent", "sent"}) {
			t.Errorf("%v, the server got %q", err, got)
		}
	})
}

// merging is a codec that reads into a message without clearing it.
type merging struct{}

func (merging) Marshal(m any) ([]byte, error) { return proto.Marshal(m.(proto.Message)) } //nolint:errcheck // a test has no others
func (merging) Unmarshal(data []byte, m any) error {
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(data, m.(proto.Message)) //nolint:errcheck // a test has no others
}
func (merging) Name() string { return "proto" }

// appending is the codec of a proxy that appends what it reads to a frame.
type appending struct{ frames }

func (appending) Unmarshal(data []byte, m any) error {
	f := m.(*frame) //nolint:errcheck // a test has no others
	f.data = append(f.data, data...)
	return nil
}

// A server may send a response and then fail. The reply of the call is that of the
// attempt that succeeded, and nothing else.
func TestReplyIsThatOfOneAttempt(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := harness.NewNode(t)
	n.Server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "hopbound.test.v1.TestService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Declared", Handler: func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&testv1.DeclaredRequest{}); err != nil {
				return err
			}
			if calls.Add(1)%2 == 1 {
				_ = ss.SendMsg(&testv1.UploadResponse{Text: "of the first attempt"})
				return harness.ErrUnavailable
			}
			return ss.SendMsg(&testv1.DeclaredResponse{})
		}}},
	}, nil)
	n.Start()
	cc := n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...)
	const method = "/hopbound.test.v1.TestService/Declared"
	request, err := proto.Marshal(&testv1.DeclaredRequest{})
	if err != nil {
		t.Fatal(err)
	}
	message := &testv1.UploadResponse{}
	if err := cc.Invoke(context.Background(), method, &testv1.DeclaredRequest{}, message, grpc.ForceCodec(merging{})); err != nil || message.GetText() != "" {
		t.Errorf("%v, and the reply is %q", err, message.GetText())
	}
	raw := &frame{data: []byte("before ")}
	if err := cc.Invoke(context.Background(), method, &frame{request}, raw, grpc.ForceCodec(appending{})); err != nil || !bytes.Equal(raw.data, []byte("before ")) {
		t.Errorf("%v, and the reply is %q", err, raw.data)
	}
	if calls.Load() != 4 {
		t.Errorf("%d attempts, want 4", calls.Load())
	}
}
