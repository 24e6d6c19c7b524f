// Package cluster runs the payment system on this machine: a process for each instance of a service, servers of PostgreSQL
// and Redis in temporary folders, and a proxy before each instance that can cut and delay its connections.
package cluster
