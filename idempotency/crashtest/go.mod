module github.com/hopbound/hopbound/idempotency/crashtest

go 1.26.0

require (
	github.com/hopbound/hopbound v0.0.0
	github.com/hopbound/hopbound/idempotency/boltstore v0.0.0
	github.com/hopbound/hopbound/idempotency/pgstore v0.0.0
	github.com/hopbound/hopbound/idempotency/redisstore v0.0.0
	github.com/hopbound/hopbound/idempotency/sqlitestore v0.0.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/redis/rueidis v1.0.79
	google.golang.org/grpc v1.85.0
	modernc.org/sqlite v1.62.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dustin/go-humanize v1.1.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/grpc-ecosystem/go-grpc-middleware/v2 v2.3.4 // indirect
	github.com/hopbound/hopbound/idempotency/storetest v0.0.0
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/ncruces/go-strftime v1.1.0 // indirect
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	modernc.org/libc v1.80.1 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
)

replace (
	github.com/hopbound/hopbound => ../..
	github.com/hopbound/hopbound/idempotency/boltstore => ../boltstore
	github.com/hopbound/hopbound/idempotency/pgstore => ../pgstore
	github.com/hopbound/hopbound/idempotency/redisstore => ../redisstore
	github.com/hopbound/hopbound/idempotency/sqlitestore => ../sqlitestore
)

replace github.com/hopbound/hopbound/idempotency/storetest => ../storetest
