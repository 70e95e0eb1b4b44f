-- One event a row. Nothing orders them but their arrival.
SELECT *
FROM 'airports.parquet'
ORDER BY faa
