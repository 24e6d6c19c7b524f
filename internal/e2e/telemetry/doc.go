// Package telemetry tests the spans, metrics and logs of calls.
package telemetry
