module github.com/hopbound/hopbound/interceptors/stack

go 1.26.0

require (
	github.com/hopbound/hopbound v0.0.0
	github.com/hopbound/hopbound/interceptors/breaker v0.0.0
	github.com/hopbound/hopbound/interceptors/bulkhead v0.0.0
	github.com/hopbound/hopbound/interceptors/fallback v0.0.0
	github.com/hopbound/hopbound/interceptors/internal/companiontest v0.0.0
	github.com/hopbound/hopbound/interceptors/ratelimit v0.0.0
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
)

require (
	github.com/bits-and-blooms/bitset v1.24.4 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/failsafe-go/failsafe-go v0.9.8 // indirect
	github.com/grpc-ecosystem/go-grpc-middleware/v2 v2.3.4 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	github.com/influxdata/tdigest v0.0.1 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
	go.opentelemetry.io/otel v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/hopbound/hopbound => ../..

replace github.com/hopbound/hopbound/interceptors/internal/companiontest => ../internal/companiontest

replace github.com/hopbound/hopbound/interceptors/breaker => ../breaker

replace github.com/hopbound/hopbound/interceptors/bulkhead => ../bulkhead

replace github.com/hopbound/hopbound/interceptors/fallback => ../fallback

replace github.com/hopbound/hopbound/interceptors/ratelimit => ../ratelimit
