package shop

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// The roles of processes.
const (
	Gateway  = "gateway"
	Orders   = "orders"
	Payments = "payments"
	Ledger   = "ledger"
	Bank     = "bank"
)

// Config is what all processes of a system know. The launcher writes it to a file.
type Config struct {
	Native      bool // gRPC's own retries, and no idempotency
	Idempotency bool

	Postgres string              // address of the server
	Redis    string              // as above
	Folder   string              // with the certificates, the bank's books and the records of runs
	Listen   map[string][]string // by role: the address of each instance
	Targets  map[string][]string // by role: the addresses at which others reach these

	Release int `json:"-"` // of this process: requests of release 2 have a field that release 1 does not know

	Traces string // the address of an OTLP backend; empty for none

	Deadline time.Duration // of the bank, and of the services for one another
	Later    time.Duration // after which a payment is made that could not be made at once

	BankFails float64 // share of the transfers that the bank does not make
	BankLoses float64 // share of its replies that are lost
	BankTakes time.Duration
	Seed      uint64
}

// Load reads a config.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Write writes the config.
func (c *Config) Write(path string) error {
	text, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
