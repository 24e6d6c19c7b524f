// Package dashboards is what one looks at services with Hopbound with: a Grafana
// dashboard, rules for Prometheus, and a configuration for the OpenTelemetry
// Collector, each a file in this folder. Its tests check them against what the
// example chain exports.
package dashboards
