-- What silver.airports must hold in the end: the source with EEN moved from the Barents Sea back to New Hampshire.
SELECT
  faa,
  name,
  if(faa = 'EEN', 42.898333, lat) AS lat,
  if(faa = 'EEN', -72.270833, lon) AS lon,
  alt,
  tz,
  dst,
  tzone,
  round(alt * 0.3048)::INTEGER AS alt_m
FROM 'airports.parquet'
