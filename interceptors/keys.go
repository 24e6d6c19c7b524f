package interceptors

import (
	"context"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// addKey gives a unary call its key, where it has none of its own. It returns the request
// to send, which is the user's own unless the key is to be written into it. A call that is
// only observed is left as it is.
func (k *call) addKey(req any) (any, error) {
	_, byHand := handKey(k.ctx)
	byHand = byHand && !k.hasKey
	key, field, err := k.findKey(req)
	k.keyedAbove = err == nil && key == "" && k.writes() && k.request != nil && k.request.wouldRun
	k.childKey = k.childKey || k.keyedAbove
	switch {
	case k.mode == Observe:
		k.wouldKey = k.keyedAbove || key != ""
		return req, nil
	case err != nil:
		return nil, err
	}
	if !k.hasKey && !byHand { // which is among the metadata already
		k.key, k.hasKey = key, key != ""
	}
	if field.field == nil || !field.empty() || key == "" {
		return req, nil
	}
	return field.with(key), nil
}

// findKey returns the key of a unary call: its own, that in its request or, in a handler
// that runs under a key, a child of it or, if the method requires one, a new one. Where it
// makes a key, the call takes a number among those of the handler, in every mode: the child
// keys of later calls must not depend on it.
func (k *call) findKey(req any) (key idempotency.Key, field keyField, err error) {
	if field, err = k.keyField(req); err != nil {
		return "", field, err
	}
	hand, byHand := handKey(k.ctx)
	switch {
	case k.hasKey:
		key = k.key
	case byHand:
		if key, err = idempotency.ParseKey(hand); err != nil {
			err = k.invalidKey(err)
		}
	case !field.empty():
		key = field.key() // which refuse looks at
	default:
		if key, k.childKey = idempotency.ForCall(k.ctx, k.fullMethod, k.writes()); !k.childKey && k.policy.KeyRequired {
			key = idempotency.NewKey()
		}
	}
	return key, field, err
}

// forwardsKey reports whether the handler that makes a call that is only observed has
// passed on the key of its own request. If its server enforced, a child would take its
// place.
func (k *call) forwardsKey() bool {
	return !k.hasKey && k.wouldKey && k.request != nil && k.request.wouldRun &&
		k.sentKey() != "" && k.sentKey() == k.request.headerKey()
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

// sentKey returns the key that the call carries, whoever has put it there, or none.
func (k *call) sentKey() idempotency.Key {
	if k.hasKey {
		return k.key
	}
	if hand, ok := handKey(k.ctx); ok {
		key, _ := idempotency.ParseKey(hand) // none if it is invalid
		return key
	}
	return ""
}

// invalidKey refuses a call whose key cannot be sent.
func (k *call) invalidKey(err error) error {
	k.refused(ReasonKeyInvalid)
	k.decision = notRetryable
	return newError(codes.InvalidArgument, ReasonKeyInvalid, err.Error())
}

// comesBack reports whether a failure of a call with a key says that another call
// with the key is still running, so that it is worth coming back for its outcome,
// whatever codes the policy repeats.
func (k *call) comesBack(err error) bool {
	if !k.hasKey || codeOf(err) != codes.Aborted {
		return false
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetReason() == ReasonInProgress || info.GetReason() == ReasonLeaseLost
		}
	}
	return false
}
