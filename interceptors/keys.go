package interceptors

import (
	"context"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/metadata"
)

// addKey gives a unary call its key, where it has none of its own: that in its
// request or, in a handler that runs under a key, a child of it or, if the method
// requires one, a new one. It returns the request to send, which is the user's
// own unless the key is to be written into it.
func (k *call) addKey(req any) (any, error) {
	if k.mode == Observe {
		return req, nil
	}
	field, err := k.keyField(req)
	if err != nil {
		return nil, err
	}
	if _, byHand := handKey(k.ctx); !k.hasKey && !byHand {
		k.key, k.hasKey = field.key()
		if !k.hasKey {
			k.key, k.hasKey = idempotency.ForCall(k.ctx, k.fullMethod, k.writes())
		}
		if !k.hasKey && k.policy.KeyRequired {
			k.key, k.hasKey = idempotency.NewKey(), true
		}
	}
	if key, ok := k.keyToSend(); ok && field.empty() {
		return field.with(key), nil
	}
	return req, nil
}

// writes reports whether the call may have an effect, and its policy does not say
// that its callee would not know it again.
func (k *call) writes() bool {
	level := k.policy.Idempotency
	if level == Unspecified {
		level = k.method.level
	}
	return level != NoSideEffects && level != NotIdempotent
}

// handKey returns the key that the user has put among the metadata.
func handKey(ctx context.Context) (string, bool) {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok || len(md[idempotency.Header]) != 1 {
		return "", false
	}
	return md[idempotency.Header][0], true
}

// keyToSend returns the valid key that the call carries, however it came by it.
func (k *call) keyToSend() (idempotency.Key, bool) {
	key := k.key
	if !k.hasKey {
		text, _ := handKey(k.ctx)
		key = idempotency.Key(text)
	}
	return key, key.Validate() == nil
}
