package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// shape is one measurement, which is repeated for each stack.
type shape struct {
	rows     []string // the names of its rows
	stacks   []string // the stacks that it is measured with; all if empty
	realTime bool
	run      func(c *cell) []row
}

// allShapes returns the shapes in the order of the tables.
func allShapes() []shape {
	return slices.Concat(
		outageShapes(), partialShapes(), fanOutShapes(), siblingShapes(), backendShapes(), hopShapes(), killShapes(), stormShapes())
}

// one is a shape with one row.
func one(name string, run func(c *cell) row, stacks ...string) shape {
	return shape{rows: []string{name}, stacks: stacks, run: func(c *cell) []row { return []row{run(c)} }}
}

// shapesNamed returns the shapes that have a row with the name, or rows in the family with the name. It returns all
// shapes if the name is empty.
func shapesNamed(name string) ([]shape, error) {
	all := allShapes()
	if name == "" {
		return all, nil
	}
	var names []string
	found := slices.DeleteFunc(slices.Clone(all), func(s shape) bool {
		names = append(names, s.rows...)
		return !slices.ContainsFunc(s.rows, func(r string) bool { return named(r, name) })
	})
	if len(found) == 0 {
		return nil, fmt.Errorf("unknown shape %q; the shapes are:\n  %s", name, strings.Join(names, "\n  "))
	}
	return found, nil
}

// named reports whether a row has the name or is in the family with the name. An empty name fits all rows.
func named(shape, name string) bool { return name == "" || shape == name || family(shape) == name }

// has reports whether the shape is measured with the stack.
func (s shape) has(stack string) bool { return len(s.stacks) == 0 || slices.Contains(s.stacks, stack) }

// measure returns the rows of the shape with a stack. It runs in virtual time, unless the shape needs real time.
func (s shape) measure(t *testing.T, k stack, small bool) []row {
	t.Helper()
	var rows []row
	run := func(t *testing.T) {
		t.Helper()
		c := &cell{t: t, stack: k, small: small, dice: newDice(1)}
		if !s.realTime {
			t.Cleanup(func() { time.Sleep(time.Minute) }) // lets goroutines that are still running end
		}
		rows = s.run(c)
	}
	if s.realTime {
		run(t)
	} else {
		synctest.Test(t, run)
	}
	for i := range rows {
		rows[i].Stack = k.name
	}
	return rows
}
