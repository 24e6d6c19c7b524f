// Package policies tests that a call has the policy that its options, its code, its service config
// or its proto file sets.
package policies
