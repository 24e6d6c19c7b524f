package services_test

import (
	"net"
	"testing"

	"github.com/hopbound/hopbound/internal/services"
)

func TestServersListenUntilTheyAreStopped(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t testing.TB) *services.Server{
		"redis":    func(t testing.TB) *services.Server { return services.Redis(t) },
		"postgres": func(t testing.TB) *services.Server { return services.Postgres(t) },
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
					t.Error("it does not listen")
				}
				s.Kill()
				if listens() {
					t.Error("it listens though it was killed")
				}
				s.Start()
			}
		})
	}
}
