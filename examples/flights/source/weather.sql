-- What silver.weather must hold in the end.
SELECT *
FROM 'weather.parquet'
