// Package queue tests package hopqueue with real queues.
package queue
