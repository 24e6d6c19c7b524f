// Package health tests keepalive, health checks and graceful stops over real connections.
package health
