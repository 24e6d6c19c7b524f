package deadline

import (
	"sync"
	"time"
)

const (
	// refusalWindow is the length of the window in which refusals are counted.
	refusalWindow = 10 * time.Second
	// maxRefused limits refusals to one in maxRefused of a window's requests. Finagle's DeadlineFilter
	// has the same limit: a safety mechanism that is wrong must not cause an outage.
	maxRefused = 5
)

// Floor learns the minimum time that a method or target needs: the shortest time in which a request
// succeeded during the last minute. A request with less time remaining cannot finish in time. Floor
// refuses nothing before it has learned two successes, because the first request is often slow. It
// refuses at most a fifth of the requests in a window of ten seconds, so that it notices when requests
// become faster. It is safe for concurrent use. The zero value has learned nothing and refuses nothing.
//
// For transports: a server has one per method, and a client one per target.
type Floor struct {
	mu      sync.Mutex
	fastest windowedMin
	started time.Duration // of the window
	seen    int           // requests in the window
	refused int           // of these
}

// Learn records how long a successful request took. now is the time on a monotonic clock. A negative time
// is ignored.
func (f *Floor) Learn(now, took time.Duration) {
	if took < 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fastest.add(now, took, noDrift)
}

// Refuse counts a request that has the given time remaining, and reports whether to refuse it.
func (f *Floor) Refuse(now, remaining time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now-f.started >= refusalWindow {
		f.started, f.seen, f.refused = now, 0, 0
	}
	f.seen++
	needed, samples := f.fastest.get(now)
	if samples < 2 || remaining >= needed || (f.refused+1)*maxRefused > f.seen {
		return false
	}
	f.refused++
	return true
}
