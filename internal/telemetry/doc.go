// Package telemetry records what happens to calls: in spans, in metrics and in logs. It owns the
// names of all attributes, instruments and log messages. The other packages tell it what happened
// and never use OpenTelemetry themselves.
//
// Without a provider of traces or metrics, nothing is recorded and nothing is allocated for it.
package telemetry
