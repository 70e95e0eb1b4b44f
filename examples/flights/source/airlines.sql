-- What silver.airlines must hold in the end.
SELECT *
FROM 'airlines.parquet'
