package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"
)

//go:embed page
var page embed.FS

const (
	maxPages    = 100              // open at the same time
	pageTimeout = 10 * time.Second // for a page to read an event
)

// handler serves the page, its event stream, single traces, the buttons and the metrics.
func (l *live) handler(hub *hub, scraped *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("GET /events", hub)
	mux.HandleFunc("GET /trace/{stack}/{id}", l.serveTrace)
	mux.HandleFunc("POST /fault/{name}", func(w http.ResponseWriter, r *http.Request) {
		if !l.choose(r.PathValue("name")) {
			http.Error(w, "no such fault", http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(scraped, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

// secure forbids the page to load anything from other sites, and other sites to embed the page.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (l *live) serveTrace(w http.ResponseWriter, r *http.Request) {
	id, err := trace.TraceIDFromHex(r.PathValue("id"))
	if err != nil {
		http.Error(w, "invalid trace id", http.StatusBadRequest)
		return
	}
	for _, s := range l.stacks {
		if string(s.stack) != r.PathValue("stack") {
			continue
		}
		if spans, dropped, ok := s.traces.spans(id); ok {
			text, err := json.Marshal(tracePage{spans, dropped})
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text) // fails only if the page was closed
			return
		}
	}
	http.Error(w, "the trace was deleted", http.StatusNotFound)
}

// tracePage is a trace as the page receives it.
type tracePage struct {
	Spans   []keptSpan `json:"spans"`
	Dropped int        `json:"dropped"` // spans that were not kept
}

// hub sends each published text to all listeners. It never waits for a slow listener, which receives only the
// latest text.
type hub struct {
	mu        sync.Mutex
	listeners map[chan []byte]struct{}
	last      []byte
}

func newHub() *hub { return &hub{listeners: map[chan []byte]struct{}{}} }

func (h *hub) publish(text []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = text
	for c := range h.listeners {
		select {
		case <-c: // drops the previous text, which was not read
		default:
		}
		c <- text
	}
}

// join returns a channel of the texts, or false if there are too many listeners.
func (h *hub) join() (chan []byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) >= maxPages {
		return nil, false
	}
	c := make(chan []byte, 1)
	if h.last != nil {
		c <- h.last
	}
	h.listeners[c] = struct{}{}
	return c, true
}

func (h *hub) leave(c chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, c)
}

// ServeHTTP sends the published texts as server-sent events.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := h.join()
	if !ok {
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer h.leave(c)
	w.Header().Set("Content-Type", "text/event-stream")
	controller := http.NewResponseController(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case text := <-c:
			_ = controller.SetWriteDeadline(time.Now().Add(pageTimeout)) // cannot fail with HTTP/1
			if _, err := fmt.Fprintf(w, "data: %s\n\n", text); err != nil {
				return
			}
			if controller.Flush() != nil {
				return
			}
		}
	}
}
