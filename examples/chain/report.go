package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// writeJSON prints the results as a JSON array.
func writeJSON(out io.Writer, results []result) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(results)
}

// writeTable prints the results as a table.
func writeTable(out io.Writer, cfg *config, results []result) error {
	fmt.Fprintf(out, "\n%d services in a row, %d attempts of each call, %d requests a line, %d at a time\n\n",
		cfg.depth, cfg.attempts, cfg.requests, min(users, cfg.requests))
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "calls that fail\tstack\tleaf calls/request\tcalls/request\tuser success\tp50 ms\tp99 ms\twasted leaf ms\t")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%.3f\t%.3f\t%.4f\t%.1f\t%.1f\t%.1f\t\n", percent(r.Fail), r.Stack,
			r.LeafCallsPerRequest, r.CallsPerRequest, r.Success, r.P50, r.P99, r.WastedLeaf)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nThe leaf is the last service. Its work is wasted if its user has given up.")
	return err
}
