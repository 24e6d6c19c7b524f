package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxSize is the largest file that is read. It is also the limit of a ConfigMap of Kubernetes.
const maxSize = 1 << 20

// maxRead limits the time of reading a URL once.
const maxRead = 10 * time.Second

// source is where a file is read from. It must not be read concurrently.
type source struct {
	location string
	name     string       // the location in errors, logs and metrics, without user, password, query and fragment
	client   *http.Client // nil if the location is a path

	// What a URL returned last.
	text []byte
	etag string
}

func newSource(location string, client *http.Client) (*source, error) {
	if !strings.HasPrefix(location, "http://") && !strings.HasPrefix(location, "https://") {
		return &source{location: location, name: location}, nil
	}
	u, err := url.Parse(location)
	if err != nil {
		return nil, errors.New("the URL of the file is malformed") // the error of url may contain a password
	}
	public := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return &source{location: location, name: public.String(), client: client}, nil
}

// read returns the whole text. It must not be changed.
func (s *source) read(ctx context.Context) ([]byte, error) {
	if s.client != nil {
		return s.get(ctx)
	}
	f, err := os.Open(s.location)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return s.readAll(f)
}

func (s *source) get(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRead)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.location, http.NoBody)
	if err != nil {
		return nil, err
	}
	if s.etag != "" {
		req.Header.Set("If-None-Match", s.etag)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if do := (*url.Error)(nil); errors.As(err, &do) {
			err = do.Err // without the URL
		}
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && s.etag != "" {
		return s.text, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", s.name, resp.Status)
	}
	text, err := s.readAll(resp.Body)
	if err != nil {
		return nil, err
	}
	s.text, s.etag = text, resp.Header.Get("ETag")
	return text, nil
}

func (s *source) readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	if len(text) > maxSize {
		return nil, errors.New(s.name + ": is larger than 1 MiB")
	}
	return text, nil
}
