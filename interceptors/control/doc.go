// Package control reads the policies and the modes of a process from a file, which can change while the process runs.
// A platform team can then change timeouts, retries and modes of all services without a release of any of them.
//
//	file, err := control.Open("/etc/hopbound/policies.yaml")
//	client, err := interceptors.NewClient(interceptors.WithPolicy(file))
//	server, err := interceptors.NewServer()
//	file.Apply(client, server)
//	go file.Watch(ctx)
//
// # The file
//
// The file is YAML, or JSON with the same structure. All fields are optional except the name of an entry in methods:
//
//	version: 2026-11-29.1
//	mode: enforce
//	methods:
//	  - name: /shop.v1.Orders/Get
//	    timeout: 2s
//	    retry: {maxAttempts: 3, codes: [UNAVAILABLE]}
//
// The fields of an entry are those of [interceptors.Policy], and a name is a name of [interceptors.MethodPolicies]. A
// call has the policy of the entry with the most specific name, and no field of another entry. An entry that sets
// only a mode has no policy, and the policy of a less specific entry applies. A field that the entry of a call does not
// set has the value of the next source of policies; [interceptors.WithPolicy] lists the sources.
//
// The file schema.json in this folder is a JSON Schema of the format, for editors.
//
// # What belongs here
//
// This folder contains the file's format, its sources and its telemetry. A new field of a policy belongs in
// [interceptors.Policy] first. Whatever makes decisions about calls belongs in the root module.
package control
