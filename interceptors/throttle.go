package interceptors

import "sync"

// throttle is gRFC A6's retryThrottling of one target: failures take a token,
// successes bring a part of one, and nothing is repeated while no more than half
// of the tokens are there. The zero value never closes. It is safe for
// concurrent use.
type throttle struct {
	config throttleConfig // of nothing if there is none

	mu     sync.Mutex
	tokens int // in thousandths
}

func newThrottle(config *throttleConfig) throttle {
	if config == nil {
		return throttle{}
	}
	return throttle{config: *config, tokens: config.maxTokens}
}

func (t *throttle) add(n int) {
	if t.config.maxTokens == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens = max(0, min(t.tokens+n, t.config.maxTokens))
}

func (t *throttle) succeeded() { t.add(t.config.tokenRatio) }
func (t *throttle) failed()    { t.add(-1000) }

func (t *throttle) closed() bool {
	if t.config.maxTokens == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tokens <= t.config.maxTokens/2
}
