package chaos_test

import (
	"math"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/idempotency/boltstore"
	"google.golang.org/grpc/codes"
)

// diskFull is the row of a full disk. The file of the store cannot grow: the process may write no file beyond the size
// that it has.
func diskFull() row {
	return row{
		name: "disk full under bolt", what: "the idempotency store of service 5 is a bolt file that cannot grow",
		promise: "reads are not affected; writes that the file has no room for fail with UNAVAILABLE and do not happen; all is well 4 s later",
		prepare: func(c *chain) {
			store := must(boltstore.Open(filepath.Join(c.t.TempDir(), "keys.db")))(c.t)
			c.t.Cleanup(func() { _ = store.Close() })
			c.hops[5].store.Store = store
		},
		inject: func(*chain, *atomic.Int64) {
			signal.Ignore(syscall.SIGXFSZ) // writes fail with EFBIG instead
			limitFiles(40 << 10)
		},
		heal:   func(*chain, *atomic.Int64) { limitFiles(math.MaxInt64) },
		served: 1, real: 0.79, amplification: 1.001, settle: 4 * time.Second, codes: []codes.Code{codes.Unavailable},
	}
}

// limitFiles limits the size up to which the process may write files.
func limitFiles(size uint64) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
	limit.Cur = min(size, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
}
