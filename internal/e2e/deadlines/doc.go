// Package deadlines tests the arithmetic of package deadline with random clocks, delays and peers.
package deadlines
