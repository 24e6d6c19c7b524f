// Package policy decides how the calls of a method are made. It merges the sources of a
// [Policy]: call options, code, the service config given to the client, the connection's
// own service config, options in proto files, and the defaults. It also holds what a server
// knows of a method before a call arrives: its [Limits], its mode, and what its proto file
// declares.
//
// The package is pure: it starts no goroutine, makes no call, and takes random numbers as
// arguments. What happens during a call belongs to packages outbound, inbound and once.
package policy
