package interceptors_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"

	"github.com/hopbound/hopbound/interceptors"
)

func TestLogHandlerPassesSlogtest(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	err := slogtest.TestHandler(interceptors.NewLogHandler(slog.NewJSONHandler(&buf, nil)), func() []map[string]any {
		var records []map[string]any
		for line := range strings.Lines(buf.String()) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			records = append(records, m)
		}
		return records
	})
	if err != nil {
		t.Error(err)
	}
}
