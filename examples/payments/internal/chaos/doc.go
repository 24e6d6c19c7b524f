// Package chaos makes payments while the system's processes, stores and connections fail, and then compares everybody's
// books.
package chaos
