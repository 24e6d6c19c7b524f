package interop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// exchange is a vector of exchanges.json.
type exchange struct {
	Name     string            `json:"name"`
	Method   string            `json:"method"`
	Settings settings          `json:"settings"`
	Request  map[string]string `json:"request"`
	Calls    [][]attempt       `json:"calls"`
	Answer   answer            `json:"answer"`
}

type attempt struct {
	Send  map[string]any `json:"send"`
	Reply reply          `json:"reply"`
}

type reply struct {
	Lost     bool                `json:"lost"` // the connection breaks
	Code     codes.Code          `json:"code"`
	Reason   string              `json:"reason"` // of the status's ErrorInfo
	Trailers map[string][]string `json:"trailers"`
}

type answer struct {
	Code     codes.Code `json:"code"`
	Used     int        `json:"u"`
	NoTokens int        `json:"n"`
	Pushback string     `json:"grpc-retry-pushback-ms"`
}

func exchanges(t *testing.T) (defaults settings, all []exchange) {
	t.Helper()
	data, err := os.ReadFile("../../../proto/hopbound/v1/testdata/exchanges.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Settings  settings   `json:"settings"`
		Exchanges []exchange `json:"exchanges"`
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Exchanges) == 0 {
		t.Fatalf("%d exchanges, error %v", len(file.Exchanges), err)
	}
	return file.Settings, file.Exchanges
}

func TestEveryHopMakesTheExchangesOfTheSpecification(t *testing.T) {
	t.Parallel()
	defaults, all := exchanges(t)
	for _, k := range kinds() {
		// Retries that the application has configured in its gRPC library must not add attempts. Hops in Go are left
		// out: grpc-go's configuration declares a method safe to repeat, and connect-go has no retries.
		for native, configured := range map[bool]string{false: "", true: ", with retries configured"} {
			if native && k.name != "node" && k.name != "python" {
				continue
			}
			t.Run(k.name+configured, func(t *testing.T) {
				t.Parallel()
				addresses := map[string]string{} // of hops, by their settings
				for _, e := range all {
					s := e.Settings.over(defaults)
					s.native = native
					id := fmt.Sprint(*s.PerRequest, *s.Burst, s.Ratio, s.MinPerSecond)
					if addresses[id] == "" {
						addresses[id] = k.start(t, s)
					}
					e.check(t, addresses[id], "")
				}
			})
		}
	}
}

// check makes the request of the exchange, and plays the target of the hop. Each exchange has a target of its own,
// because a hop remembers its targets. If there is a proxy, it stands before and behind the hop; it sends calls to the
// address in the metadata x-via, or else to the one in x-next.
func (e *exchange) check(t *testing.T, hop, proxy string) {
	t.Helper()
	target := &scripted{exchange: e}
	var next string
	next, target.cut = serve(t, target.handle)
	md := metadata.Pairs(callsKey, strconv.Itoa(len(e.Calls)))
	if proxy != "" {
		md.Append(viaKey, hop)
		hop, next = proxy, proxy+","+next
	}
	md.Append(nextKey, next)
	for key, value := range e.Request {
		md.Append(key, value)
	}
	var trailer metadata.MD
	err := method(dial(t, hop), e.Method)(metadata.NewOutgoingContext(t.Context(), md), grpc.Trailer(&trailer))
	problems := target.end()
	if code := status.Code(err); code != e.Answer.Code {
		problems = append(problems, fmt.Sprintf("the answer is %v, want %v", err, e.Answer.Code))
	}
	problems = append(problems, e.Answer.compare(trailer)...)
	if len(problems) > 0 {
		t.Errorf("%s:\n\t%s", e.Name, strings.Join(problems, "\n\t"))
	}
}

// compare returns what is wrong with the trailer of an answer.
func (a *answer) compare(trailer metadata.MD) (problems []string) {
	var report wire.Report
	switch values := trailer[wire.ReportKey]; {
	case len(values) > 1:
		problems = append(problems, fmt.Sprintf("the answer has the reports %q, want one", values))
	case len(values) == 1:
		var ok bool
		if report, ok = wire.ParseReport(values[0]); !ok {
			problems = append(problems, fmt.Sprintf("the report %q is malformed", values[0]))
		}
	case a.Code != codes.OK || a.Used > 0:
		problems = append(problems, "the answer has no report")
	}
	if report.Used != a.Used || report.NoTokens != (a.NoTokens == 1) {
		problems = append(problems, fmt.Sprintf("the report is %q, want u=%d and n=%d", trailer[wire.ReportKey], a.Used, a.NoTokens))
	}
	if got := strings.Join(trailer[wire.PushbackKey], ","); got != a.Pushback {
		problems = append(problems, fmt.Sprintf("the pushback is %q, want %q", got, a.Pushback))
	}
	return problems
}

// scripted is a target that answers as an exchange says, and records what differs from the exchange.
type scripted struct {
	exchange *exchange
	cut      func() // breaks all connections

	mu            sync.Mutex
	call, attempt int
	problems      []string
}

func (s *scripted) handle(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call == len(s.exchange.Calls) {
		s.problems = append(s.problems, "there is an attempt too many")
		return nil
	}
	attempts := s.exchange.Calls[s.call]
	a := attempts[s.attempt]
	md, _ := metadata.FromIncomingContext(ctx)
	for key, got := range sent(md) {
		want := ""
		if v, ok := a.Send[key]; ok {
			want = fmt.Sprint(v)
		}
		if got != want {
			s.problems = append(s.problems, fmt.Sprintf("call %d, attempt %d: %s is %q, want %q", s.call+1, s.attempt+1, key, got, want))
		}
	}
	if s.attempt++; s.attempt == len(attempts) {
		s.call, s.attempt = s.call+1, 0
	}
	if a.Reply.Lost {
		s.cut()
		<-ctx.Done() // until gRPC has noticed
		return ctx.Err()
	}
	_ = grpc.SetTrailer(ctx, a.Reply.Trailers)
	if a.Reply.Code == codes.OK {
		return nil
	}
	st := status.New(a.Reply.Code, "as the exchange says")
	if a.Reply.Reason != "" {
		st, _ = st.WithDetails(&errdetails.ErrorInfo{Reason: a.Reply.Reason, Domain: "hopbound"}) // it is not OK
	}
	return st.Err()
}

// sent returns what an exchange may say of an attempt. The text of what is absent is empty.
func sent(md metadata.MD) map[string]string {
	all := map[string]string{"b": "", "a": "", "k": "", "l": ""}
	for _, key := range []string{"grpc-previous-rpc-attempts", "idempotency-key"} {
		all[key] = strings.Join(md[key], ",")
	}
	if values := md[wire.ContextKey]; len(values) == 1 {
		h, ok := wire.ParseContext(values[0])
		if !ok {
			all["b"] = "malformed " + values[0]
			return all
		}
		all["a"] = strconv.Itoa(h.Attempt)
		if h.HasBudget {
			all["b"] = strconv.Itoa(h.Budget)
		}
		if h.Keyed {
			all["k"] = "1"
		}
		if h.Level > 0 {
			all["l"] = strconv.Itoa(h.Level)
		}
	}
	return all
}

// end returns what differed from the exchange.
func (s *scripted) end() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call < len(s.exchange.Calls) {
		s.problems = append(s.problems, fmt.Sprintf("call %d ended after %d attempts, want %d", s.call+1, s.attempt, len(s.exchange.Calls[s.call])))
	}
	return slices.Clone(s.problems)
}
