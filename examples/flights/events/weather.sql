-- One event a recording, hour by hour. The table has no key, so each is sent once.
SELECT *
FROM 'weather.parquet'
ORDER BY time_hour, origin
