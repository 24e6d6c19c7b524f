package outbound

import (
	"context"
	"reflect"

	"github.com/hopbound/hopbound/internal/request"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// UnaryInterceptor returns the interceptor of unary calls. The argument native says that gRPC's own
// retries are on.
func (c *Client) UnaryInterceptor(native bool) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		if c.InstalledTwice(ctx, fullMethod, cc) {
			return invoker(ctx, fullMethod, req, reply, cc, opts...)
		}
		call := &Call{Native: native}
		call.Start(ctx, c, fullMethod, cc, opts)
		err = errPanicked // unless the rest returns
		defer func() { call.End(err) }()
		if c.failures.has(call.failure(req, reply)) {
			call.LeaveRetries()
		}
		err = call.unary(req, reply, cc, invoker)
		c.failures.callEnded(call.failure(req, reply), err)
		return err
	}
}

// unary makes a unary call.
func (c *Call) unary(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	req, err := c.addKey(req)
	if err == nil {
		err = c.Reject()
	}
	if err != nil {
		return err
	}
	if c.IsHedged() && isMessage(reply) { // each hedge needs a reply of its own
		return c.hedge(req, reply, cc, invoker)
	}
	c.DisableHedging()
	before := replyBefore(reply)
	err = c.Attempts(nil, nil, func() (*Attempt, error) {
		if c.attempts > 0 {
			clearReply(reply, before)
		}
		err := c.invoke(req, reply, cc, invoker)
		return c.last, err
	})
	if err == nil {
		c.succeeded(c.last)
	}
	c.CopyTo(c.last)
	return err
}

// InstalledTwice reports whether a call comes from an attempt of the same call, because two
// interceptors of Hopbound are in one chain. The inner one must pass the call through. Otherwise,
// three attempts of each would make nine.
//
// An attempt's context alone is no proof, because it also reaches the application as the context of a
// stream. Therefore the attempt must also be in the process of being handed to gRPC.
func (c *Client) InstalledTwice(ctx context.Context, fullMethod string, cc *grpc.ClientConn) bool {
	outer, ok := ctx.Value(request.AttemptKey{}).(*attemptContext)
	if !ok || !outer.attempt.Making.Load() || outer.call.conn != cc || outer.call.FullMethod != fullMethod {
		return false
	}
	c.telemetry.InstalledTwice(ctx, &outer.call.telemetry)
	return true
}

// replyBefore returns the value of a unary call's reply before its first attempt, if it is a pointer
// to something other than a protobuf message.
func replyBefore(reply any) (before reflect.Value) {
	if _, ok := reply.(proto.Message); ok {
		return before
	}
	if v := reflect.ValueOf(reply); v.Kind() == reflect.Pointer && !v.IsNil() {
		before = reflect.New(v.Type().Elem()).Elem()
		before.Set(v.Elem())
	}
	return before
}

// clearReply restores a reply after an attempt that failed and may have received a response: some
// codecs decode into a message without clearing it.
func clearReply(reply any, before reflect.Value) {
	if m, ok := reply.(proto.Message); ok {
		proto.Reset(m)
	} else if before.IsValid() {
		reflect.ValueOf(reply).Elem().Set(before)
	}
}

// isMessage reports whether m is a protobuf message, so that a new message of its type can be made.
// For a message of another codec, that is not certain: it may contain something that the codec needs.
func isMessage(m any) bool {
	switch m.(type) {
	case proto.Message, protoadapt.MessageV1:
		return reflect.ValueOf(m).Kind() == reflect.Pointer
	}
	return false
}

// NewLike returns a new protobuf message of the type of m.
func NewLike(m any) any {
	if m, ok := m.(proto.Message); ok {
		return m.ProtoReflect().New().Interface()
	}
	return reflect.New(reflect.TypeOf(m).Elem()).Interface()
}

// copyMessage copies src to dst.
func copyMessage(dst, src any) {
	if d, ok := dst.(proto.Message); ok {
		if s, ok := src.(proto.Message); ok {
			proto.Reset(d)
			proto.Merge(d, s)
			return
		}
	}
	reflect.ValueOf(dst).Elem().Set(reflect.ValueOf(src).Elem())
}
