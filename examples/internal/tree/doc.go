// Package tree prints the spans of a request as a tree of calls and attempts, and finds what made the request fail
// or take its time.
//
// It contains what is known of one request's spans, whatever file or SDK they come from. What reads files, and what
// counts over many requests, belongs to the commands.
package tree
