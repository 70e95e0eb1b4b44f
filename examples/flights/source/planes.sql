-- What silver.planes must hold in the end.
SELECT *
FROM 'planes.parquet'
