// Package http tests hops over HTTP.
package http
