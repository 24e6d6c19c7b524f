// Package dashboards contains files for monitoring services with Hopbound: a Grafana dashboard, rules for
// Prometheus, and a configuration for the OpenTelemetry Collector. Its tests check them against the metrics that
// the example chain exports.
package dashboards
