module github.com/hopbound/hopbound/idempotency/storetest

go 1.26.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/hopbound/hopbound v0.0.0
)

require (
	golang.org/x/sys v0.48.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/hopbound/hopbound => ../..
