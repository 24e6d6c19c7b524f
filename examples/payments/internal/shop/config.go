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
	Native      bool `json:"native"` // gRPC's own retries, and no idempotency
	Idempotency bool `json:"idempotency"`

	Postgres string              `json:"postgres"` // address of the server
	Redis    string              `json:"redis"`    // as above
	Prefix   string              `json:"prefix"`   // of database names and Redis keys; empty if the servers are the system's own
	Folder   string              `json:"folder"`   // with the certificates, the bank's books and the records of runs
	Listen   map[string][]string `json:"listen"`   // by role: the address of each instance
	Targets  map[string][]string `json:"targets"`  // by role: the addresses at which others reach these
	Traces   string              `json:"traces"`   // the address of an OTLP backend; empty for none

	Deadline time.Duration `json:"deadline"` // of the bank, and of the services for one another
	Later    time.Duration `json:"later"`    // after which a payment is made that could not be made at once

	BankFails float64       `json:"bank_fails"` // share of the transfers that the bank does not make
	BankLoses float64       `json:"bank_loses"` // share of its replies that are lost
	BankTakes time.Duration `json:"bank_takes"`
	Seed      uint64        `json:"seed"`

	Release int `json:"-"` // of this process: requests of release 2 have a field that release 1 does not know
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
