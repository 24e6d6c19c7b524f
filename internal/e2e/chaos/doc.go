// Package chaos injects faults into a chain of five services with the whole stack, and checks what users notice. Its test
// writes docs/chaos.md:
//
//	go test ./internal/e2e/chaos -args -write
package chaos
