-- Some destinations (Puerto Rico, the Virgin Islands) are not among the airports: their name stays NULL.
WITH routes AS (
  SELECT
    origin,
    dest,
    count(*) AS flights,
    count(DISTINCT carrier) AS carriers,
    max(distance) AS miles,
    round(sum(air_time)::BIGINT / nullif(count(air_time), 0), 1) AS avg_air_minutes,
    round(count(*) FILTER (arr_delay < 15) / nullif(count(arr_delay), 0), 4) AS on_time_share
  FROM silver.flights
  GROUP BY origin, dest
)
SELECT
  row_number() OVER (PARTITION BY origin ORDER BY flights DESC, dest) AS rank_at_origin,
  row_number() OVER (ORDER BY flights DESC, origin, dest) AS rank_overall,
  origin,
  dest,
  o.name AS origin_name,
  d.name AS dest_name,
  flights,
  round(flights / sum(flights) OVER (PARTITION BY origin)::BIGINT, 4) AS share_of_origin,
  carriers,
  miles,
  avg_air_minutes,
  on_time_share
FROM routes
LEFT JOIN silver.airports AS o ON o.faa = origin
LEFT JOIN silver.airports AS d ON d.faa = dest
