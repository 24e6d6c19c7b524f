package main

import (
	"fmt"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// resource reads the spans of one resource in OTLP's JSON.
func (r *reader) resource() error {
	first, named := r.store.mark(), false
	r.service = ""
	return r.fields(func(name string) error {
		switch name {
		case "resource":
			if err := r.readService(); err != nil {
				return err
			}
			if !named {
				r.store.rename(first, func(string) string { return r.service })
			}
			named = true
			return nil
		case "scopeSpans", "instrumentationLibrarySpans": // old exporters write the second
			return r.elements(r.scope)
		}
		return r.skip(nil)
	})
}

func (r *reader) readService() error {
	p, err := r.value()
	if err != nil {
		return err
	}
	var resource struct {
		Attributes attributes `json:"attributes"`
	}
	if err := p.decode(&resource); err != nil {
		r.report.leave(r.name, p.line, fmt.Errorf("resource: %w", err))
	}
	r.service, _ = resource.Attributes.values()["service.name"].(string)
	return nil
}

func (r *reader) scope() error {
	return r.fields(func(name string) error {
		if name == "spans" {
			return r.elements(r.span)
		}
		return r.skip(nil)
	})
}

func (r *reader) span() error {
	p, err := r.value()
	if err != nil {
		return err
	}
	r.keep(p.line, func() (*tree.Span, error) {
		s, err := readSpan(p)
		if err == nil {
			s.Service = r.service
		}
		return s, err
	})
	return nil
}
