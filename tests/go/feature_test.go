package mallard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	adbcGo    = "ADBC, Go"
	flightSQL = "Arrow Flight SQL, Go"
)

// feature reports to the conformance matrix what a test shows with the ADBC driver. It comes first in a test, so that
// nothing that fails later is missed.
func feature(t *testing.T, names ...string) { featureOf(t, adbcGo, names...) }

// featureOf is feature for another client.
func featureOf(t *testing.T, client string, names ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "conformance", "features.txt"))
	require.NoError(t, err)
	known := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, "#")
	})
	for _, name := range names {
		require.Contains(t, known, name, "tests/conformance/features.txt has no such feature")
	}
	folder := os.Getenv("MALLARD_CONFORMANCE")
	if folder == "" {
		return
	}
	t.Cleanup(func() {
		file, err := os.OpenFile(filepath.Join(folder, "go.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		defer file.Close()
		for _, name := range names {
			require.NoError(t, json.NewEncoder(file).Encode(map[string]any{
				"client": client, "feature": name, "test": t.Name(), "passed": !t.Failed(),
			}))
		}
	})
}
