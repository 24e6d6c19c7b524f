package services_test

import (
	"net"
	"testing"

	"github.com/hopbound/hopbound/idempotency/storetest/services"
)

func TestServersListenUntilTheyAreStopped(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t services.TB, settings ...string) *services.Server{
		"redis":    services.Redis,
		"postgres": services.Postgres,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			listens := func() bool {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr)
				if err == nil {
					_ = conn.Close()
				}
				return err == nil
			}
			for range 2 {
				if !listens() {
					t.Error("it does not listen after its start")
				}
				s.Kill()
				if listens() {
					t.Error("it listens after it was killed")
				}
				s.Start()
			}
		})
	}
}
