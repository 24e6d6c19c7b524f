// Package trust tests what callers, callees and proxies can do with hostile or malformed metadata.
package trust
