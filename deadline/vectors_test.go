package deadline_test

import (
	"encoding/json"
	"math"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
)

// message is a message of a vector. All numbers are microseconds.
type message struct {
	Received  micros  `json:"received"`
	Sent      micros  `json:"s"`
	Clock     string  `json:"c"`
	Deadline  *micros `json:"d"`
	GRPC      *micros `json:"grpc"`
	Remaining micros  `json:"remaining"`
}

type micros int64

func (m *micros) UnmarshalJSON(data []byte) error {
	text, err := strconv.Unquote(string(data))
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	*m = micros(n)
	return err
}

func (m micros) duration() time.Duration { return time.Duration(m) * time.Microsecond }

func TestVectorsOfDeadlinesHold(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../proto/hopbound/v1/testdata/deadlines.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Deadlines []struct {
			Name     string    `json:"name"`
			Messages []message `json:"messages"`
		} `json:"deadlines"`
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Deadlines) == 0 {
		t.Fatalf("%d vectors, error %v", len(file.Deadlines), err)
	}
	for _, v := range file.Deadlines {
		delays := deadline.NewDelays(10)
		for i, m := range v.Messages {
			clock, err := strconv.ParseUint(m.Clock, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			excess := delays.Excess(deadline.Sender{Peer: "connection", Clock: clock}, int64(m.Sent), m.Received.duration())
			remaining := time.Duration(math.MaxInt64)
			if m.GRPC != nil {
				remaining = m.GRPC.duration()
			}
			if m.Deadline != nil {
				remaining = deadline.OnArrival(int64(*m.Deadline), int64(m.Sent), excess, remaining)
			}
			if remaining != m.Remaining.duration() {
				t.Errorf("%s: message %d has %v left, want %v", v.Name, i+1, remaining, m.Remaining.duration())
			}
		}
	}
}
