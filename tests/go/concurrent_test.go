package mallard

import (
	"fmt"
	"sync"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/stretchr/testify/require"
)

// together runs work at once, and gives what failed.
func together(count int, work func(number int) error) []error {
	var group sync.WaitGroup
	failures := make([]error, count)
	for number := range count {
		group.Go(func() { failures[number] = work(number) })
	}
	group.Wait()
	return failures
}

// quickly is query without a test, for goroutines.
func quickly(t *testing.T, connection adbc.Connection, sql, want string) error {
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	if err := statement.SetSqlQuery(sql); err != nil {
		return err
	}
	rows, err := run(t.Context(), statement)
	if err == nil && fmt.Sprint(rows) != want {
		err = fmt.Errorf("%s gave %s, not %s", sql, rows, want)
	}
	return err
}

func TestManyConnectionsOfADatabaseWorkAtOnce(t *testing.T) {
	feature(t, "connections at once")
	database := open(t, nil)
	failures := together(40, func(number int) error {
		connection, err := database.Open(t.Context())
		if err != nil {
			return err
		}
		for turn := range 10 {
			sql := fmt.Sprintf("SELECT %d, count(*) FROM generate_series(1, %d)", number, turn+1)
			if err := quickly(t, connection, sql, fmt.Sprintf("[%d|%d]", number, turn+1)); err != nil {
				return err
			}
		}
		return connection.Close()
	})
	for _, failure := range failures {
		require.NoError(t, failure)
	}
}

func TestManyStatementsOfAConnectionWorkAtOnce(t *testing.T) {
	feature(t, "connections at once")
	connection := connect(t)
	failures := together(100, func(number int) error {
		sql := fmt.Sprintf("SELECT sum(x) - %d FROM generate_series(1, 1000) t(x)", number)
		return quickly(t, connection, sql, fmt.Sprintf("[%d]", 500500-number))
	})
	for _, failure := range failures {
		require.NoError(t, failure)
	}
}

func TestRowsAreSentAndReadAtOnce(t *testing.T) {
	feature(t, "connections at once", appends)
	database, base := open(t, nil), own()
	statements := make([]adbc.Statement, 20)
	for number := range statements {
		connection, err := database.Open(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, connection.Close()) })
		if number%2 == 1 {
			statements[number] = state(t, connection, "SELECT count(*) >= 0 FROM silver.logs")
			continue
		}
		line := fmt.Sprintf(`{"line":%d,"text":"x"}`, base+int64(number))
		statements[number] = state(t, connection, "", appending, map[string]string{adbc.OptionKeyIngestTargetTable: "logs"})
		require.NoError(t, statements[number].Bind(t.Context(), batch(t, logs, "["+line+","+line+"]")))
	}
	failures := together(len(statements), func(number int) error {
		if number%2 == 1 {
			_, err := run(t.Context(), statements[number])
			return err
		}
		accepted, err := statements[number].ExecuteUpdate(t.Context())
		if err == nil && accepted != 2 {
			err = fmt.Errorf("%d rows were accepted", accepted)
		}
		return err
	})
	for _, failure := range failures {
		require.NoError(t, failure)
	}
	awaitRows(t, connect(t), fmt.Sprintf(
		"SELECT count(*), count(DISTINCT line) FROM silver.logs WHERE line BETWEEN %[1]d AND %[1]d + 999", base), "20|10")
}
