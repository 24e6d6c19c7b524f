module github.com/hopbound/hopbound/internal/e2e

go 1.26.0

require (
	connectrpc.com/connect v1.21.1
	github.com/grpc-ecosystem/go-grpc-middleware/v2 v2.3.4
	github.com/hopbound/hopbound v0.0.0
	github.com/hopbound/hopbound/hopconnect v0.0.0-00010101000000-000000000000
	github.com/nats-io/nats.go v1.55.0
	github.com/twmb/franz-go v1.22.3
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c
	go.opentelemetry.io/otel v1.47.0
	go.opentelemetry.io/otel/sdk v1.47.0
	go.opentelemetry.io/otel/sdk/metric v1.47.0
	go.opentelemetry.io/otel/trace v1.47.0
	go.uber.org/goleak v1.3.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)

require (
	github.com/bits-and-blooms/bitset v1.24.4 // indirect
	github.com/failsafe-go/failsafe-go v0.9.8 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	github.com/influxdata/tdigest v0.0.1 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.1 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hopbound/hopbound/idempotency/boltstore v0.0.0
	github.com/hopbound/hopbound/interceptors/breaker v0.0.0
	github.com/hopbound/hopbound/interceptors/bulkhead v0.0.0
	github.com/hopbound/hopbound/interceptors/fallback v0.0.0
	github.com/hopbound/hopbound/interceptors/ratelimit v0.0.0
	github.com/hopbound/hopbound/interceptors/stack v0.0.0
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)

replace github.com/hopbound/hopbound => ../..

replace github.com/hopbound/hopbound/hopconnect => ../../hopconnect

replace github.com/hopbound/hopbound/interceptors/stack => ../../interceptors/stack

replace github.com/hopbound/hopbound/interceptors/breaker => ../../interceptors/breaker

replace github.com/hopbound/hopbound/interceptors/bulkhead => ../../interceptors/bulkhead

replace github.com/hopbound/hopbound/interceptors/fallback => ../../interceptors/fallback

replace github.com/hopbound/hopbound/interceptors/ratelimit => ../../interceptors/ratelimit

replace github.com/hopbound/hopbound/idempotency/boltstore => ../../idempotency/boltstore

replace github.com/hopbound/hopbound/interceptors/internal/companiontest => ../../interceptors/internal/companiontest

replace github.com/hopbound/hopbound/idempotency/storetest => ../../idempotency/storetest
