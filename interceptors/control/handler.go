package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"
)

// Handler returns a handler that serves a file to other processes, which read it with [Open] and a URL:
//
//   - GET / returns the text in use, with an ETag, and the version in the header Hopbound-Control-Version,
//   - GET /status returns the [Status] as JSON, with the fields version, loadedAt and, if there is an error, error.
//
// The handler changes nothing and checks no credentials. An invalid version of the file is never served.
func Handler(f *File) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s := f.state.Load()
		w.Header().Set("Content-Type", "application/yaml") // as which JSON can be read too
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", `"`+hash(s.text)+`"`)
		w.Header().Set("Hopbound-Control-Version", s.config.version)
		http.ServeContent(w, r, "", s.loaded, bytes.NewReader(s.text))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		s := f.Status()
		status := struct {
			Version  string    `json:"version"`
			LoadedAt time.Time `json:"loadedAt"`
			Error    string    `json:"error,omitempty"`
		}{Version: s.Version, LoadedAt: s.Loaded}
		if s.Err != nil {
			status.Error = s.Err.Error()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status) // the client may be gone
	})
	return mux
}

// hash returns the start of the hash of a text, in hexadecimal digits.
func hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
