-- One event a row. Nothing orders them but their arrival.
SELECT *
FROM 'planes.parquet'
ORDER BY tailnum
