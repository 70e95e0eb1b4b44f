-- One event a row. Nothing orders them but their arrival.
SELECT *
FROM 'airlines.parquet'
ORDER BY carrier
