SELECT _row, id, id * 2 AS doubled FROM incoming
