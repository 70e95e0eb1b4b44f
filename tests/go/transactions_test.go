package mallard

import (
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/stretchr/testify/require"
)

const noTransactions = "transactions are refused"

func TestAutocommitCannotBeTurnedOff(t *testing.T) {
	feature(t, noTransactions)
	connection := connect(t)
	options := connection.(adbc.GetSetOptions)
	require.NoError(t, options.SetOption(adbc.OptionKeyAutoCommit, adbc.OptionValueEnabled))
	err := options.SetOption(adbc.OptionKeyAutoCommit, adbc.OptionValueDisabled)
	failed(t, err, adbc.StatusNotImplemented, "does not report transaction support")
	value, err := options.GetOption(adbc.OptionKeyAutoCommit)
	require.NoError(t, err)
	require.Equal(t, adbc.OptionValueEnabled, value)
	failed(t, connection.Commit(t.Context()), adbc.StatusInvalidState)
	failed(t, connection.Rollback(t.Context()), adbc.StatusInvalidState)
	require.Equal(t, []string{"1"}, query(t, connection, "SELECT 1"))
}

func TestTransactionsOverSQLAreRefusedWithTheReason(t *testing.T) {
	feature(t, noTransactions, "errors with their codes")
	connection := connect(t)
	for _, sql := range []string{"BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK"} {
		_, err := try(t, connection, sql)
		refused(t, err, adbc.StatusInvalidArgument, "no transactions", "autocommit")
		_, err = state(t, connection, sql).ExecuteUpdate(t.Context())
		refused(t, err, adbc.StatusInvalidArgument, "no transactions", "autocommit")
	}
}
