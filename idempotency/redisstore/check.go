package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hopbound/hopbound/idempotency"
)

// Errors of [Store.Check].
var (
	// ErrEvicts is returned for a server that evicts records when its memory is full.
	ErrEvicts = errors.New("redisstore: the server evicts keys: set maxmemory-policy to noeviction")
	// ErrOldRedis is returned for a server that is older than Redis 7.
	ErrOldRedis = errors.New("redisstore: the server is older than Redis 7")
)

// Check returns the errors of all servers, joined: [ErrEvicts], [ErrOldRedis], and those of servers that
// do not answer. It also writes a record and deletes it again, and returns the error if a step fails.
// Call Check when a process starts.
func (s *Store) Check(ctx context.Context) error {
	nodes := s.client.Nodes()
	var errs []error
	for _, addr := range slices.Sorted(maps.Keys(nodes)) {
		node := nodes[addr]
		info, err := node.Do(ctx, node.B().Info().Section("server", "memory").Build()).ToString()
		if err == nil {
			err = checkInfo(info)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		}
	}
	if err := idempotency.Probe(ctx, s); err != nil {
		errs = append(errs, fmt.Errorf("redisstore: %w", err))
	}
	return errors.Join(errs...)
}

func checkInfo(info string) error {
	fields := map[string]string{}
	for line := range strings.SplitSeq(info, "\r\n") {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = value
		}
	}
	var errs []error
	major, _, _ := strings.Cut(fields["redis_version"], ".")
	if n, err := strconv.Atoi(major); err == nil && n < 7 {
		errs = append(errs, fmt.Errorf("%w: it is %s", ErrOldRedis, fields["redis_version"]))
	}
	if policy := fields["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		errs = append(errs, fmt.Errorf("%w: it is %s", ErrEvicts, policy))
	}
	return errors.Join(errs...)
}
