package bench

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// Append appends a text to a file, which it creates if necessary. It prints the text to standard output if name is
// empty.
func Append(name, text string) error {
	if name == "" {
		_, err := fmt.Fprint(os.Stdout, text)
		return err
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a document for all to read
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Quantile returns the quantile q of the values, from 0 to 1: the value whose rank is nearest. There must be at least
// one value.
func Quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
