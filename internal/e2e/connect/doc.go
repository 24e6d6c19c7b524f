// Package connect tests hops with connect-go, over its three protocols.
package connect
