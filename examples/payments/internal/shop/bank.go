package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/interceptors/fault"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// bank is the simulator of another company's service. It is slow, fails, and loses replies. Its books are a file.
type bank struct {
	paymentsv1.UnimplementedClearingServiceServer

	mu        sync.Mutex
	books     *os.File
	transfers map[string]*Transfer // by reference
}

// Transfer is a line of the bank's books: a transfer that was made, or a call without one.
type Transfer struct {
	Reference string `json:"reference"`
	Account   string `json:"account,omitempty"`
	Cents     int64  `json:"cents,omitempty"`
	Made      bool   `json:"made,omitempty"` // false for a call that did not make it
}

// BooksPath returns the path of the bank's books.
func (c *Config) BooksPath() string { return filepath.Join(c.Folder, "bank.jsonl") }

func openBank(_ context.Context, c *Config, _ int, _ trace.TracerProvider) (*service, error) {
	lines, err := ReadBooks(c.BooksPath())
	if err != nil {
		return nil, err
	}
	b := &bank{transfers: map[string]*Transfer{}}
	for _, t := range lines {
		if t.Made {
			b.transfers[t.Reference] = t
		}
	}
	if b.books, err = openLines(c.BooksPath()); err != nil {
		return nil, err
	}
	var rules []fault.Rule
	add := func(r fault.Rule) {
		r.Methods = []string{paymentsv1.ClearingService_Transfer_FullMethodName}
		rules = append(rules, r)
	}
	if c.BankTakes > 0 {
		add(fault.Rule{Name: "slow", Share: 1, Latency: c.BankTakes / 2, Jitter: c.BankTakes})
	}
	if c.BankFails > 0 {
		add(fault.Rule{Name: "fails", Share: c.BankFails, Code: codes.Unavailable})
	}
	if c.BankLoses > 0 {
		add(fault.Rule{Name: "loses replies", Share: c.BankLoses, LoseReply: true})
	}
	faults, err := fault.New(rules, fault.Seed(c.Seed))
	if err == nil {
		err = faults.Enable()
	}
	return &service{
		register: func(r grpc.ServiceRegistrar) { paymentsv1.RegisterClearingServiceServer(r, b) },
		options:  append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(b.count)}, faults.ServerOptions()...),
		close:    func() { _ = b.books.Close() },
	}, err
}

// count writes each call into the books, also one that fails.
func (b *bank) count(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if r, ok := req.(*paymentsv1.TransferRequest); ok {
		if err := b.write(&Transfer{Reference: r.GetReference()}); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

func (b *bank) write(t *Transfer) error {
	line, err := json.Marshal(t)
	if err == nil {
		_, err = b.books.Write(append(line, '\n'))
	}
	if err != nil {
		return status.Errorf(codes.Internal, "the bank's books: %v", err)
	}
	return nil
}

// Transfer charges an account, once for each reference.
func (b *bank) Transfer(_ context.Context, req *paymentsv1.TransferRequest) (*paymentsv1.TransferResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.transfers[req.GetReference()]
	switch {
	case t == nil:
		t = &Transfer{Reference: req.GetReference(), Account: req.GetAccount(), Cents: req.GetCents(), Made: true}
		if err := b.write(t); err != nil {
			return nil, err
		}
		b.transfers[t.Reference] = t
	case t.Account != req.GetAccount() || t.Cents != req.GetCents():
		return nil, status.Error(codes.InvalidArgument, "the reference is that of another transfer")
	}
	return &paymentsv1.TransferResponse{Transfer: "transfer " + t.Reference}, nil
}

// ReadBooks reads the bank's books.
func ReadBooks(path string) ([]*Transfer, error) { return readLines[Transfer](path) }

// ReadRunsOf reads what an instance of the gateway has recorded.
func ReadRunsOf(folder string, instance int) ([]*Run, error) {
	return readLines[Run](runsPath(folder, instance))
}

func runsPath(folder string, instance int) string {
	return filepath.Join(folder, fmt.Sprintf("runs-%d.jsonl", instance))
}

// ReadRuns reads what all instances have recorded.
func ReadRuns(folder string) (all []*Run, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "runs-*.jsonl"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		runs, err := readLines[Run](f)
		if err != nil {
			return nil, err
		}
		all = append(all, runs...)
	}
	return all, nil
}

// readLines reads a file of JSON lines. A file that does not exist is empty. A last line that is cut counts as absent.
func readLines[T any](path string) (all []*T, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text[:whole(text)]) {
		t := new(T)
		if err := json.Unmarshal(line, t); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, t)
	}
	return all, nil
}

// whole returns the length of the lines that are not cut.
func whole(text []byte) int { return bytes.LastIndexByte(text, '\n') + 1 }

// openLines opens a file to append lines. A last line that is cut is removed.
func openLines(path string) (*os.File, error) {
	text, err := os.ReadFile(path)
	if err == nil && whole(text) < len(text) {
		err = os.Truncate(path, int64(whole(text)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
}
