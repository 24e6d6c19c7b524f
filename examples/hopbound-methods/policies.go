package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hopbound/hopbound/interceptors"
)

// policies are those of a service config: retry, hedge, or "" if a methodConfig has neither. A name is
// "/service/method", "/service/", or "" for all methods.
type policies map[string]string

// of returns the policy of a method. Only the most specific methodConfig applies.
func (p policies) of(service, method string) string {
	for _, name := range []string{"/" + service + "/" + method, "/" + service + "/"} {
		if policy, ok := p[name]; ok {
			return policy
		}
	}
	return p[""]
}

// readPolicies reads the file of a service config. Without a file there are no policies.
func readPolicies(file string) (policies, error) {
	all := policies{}
	if file == "" {
		return all, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if _, err := interceptors.NewClient(interceptors.WithServiceConfig(string(text))); err != nil {
		return nil, fmt.Errorf("-policy %s: %w", file, err)
	}
	var config struct {
		MethodConfig []struct {
			Name []struct {
				Service string `json:"service"`
				Method  string `json:"method"`
			} `json:"name"`
			RetryPolicy   map[string]any `json:"retryPolicy"` // nil if it is absent or null
			HedgingPolicy map[string]any `json:"hedgingPolicy"`
		} `json:"methodConfig"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("-policy %s: %w", file, err)
	}
	for _, c := range config.MethodConfig {
		policy := ""
		switch {
		case c.RetryPolicy != nil:
			policy = retry
		case c.HedgingPolicy != nil:
			policy = hedge
		}
		for _, n := range c.Name {
			name := ""
			if n.Service != "" {
				name = "/" + n.Service + "/" + n.Method
			}
			all[name] = policy
		}
	}
	return all, nil
}
