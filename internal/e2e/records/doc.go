// Package records compares the rules of a stored record with a model of them, in random histories.
package records
