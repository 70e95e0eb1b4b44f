-- On time means less than 15 minutes late at arrival, as the US Bureau of Transportation Statistics counts it.
-- Averages are divisions of whole numbers, so they don't depend on the order in which rows are added up.
SELECT
  f.carrier,
  f.month,
  min(a.name) AS airline,
  count(*) AS flights,
  count(*) FILTER (status = 'cancelled') AS cancelled,
  count(*) FILTER (status = 'arrived' AND arr_delay IS NULL) AS diverted,
  count(arr_delay) AS arrived,
  count(*) FILTER (arr_delay < 15) AS on_time,
  round(on_time / nullif(arrived, 0), 4) AS on_time_share,
  round(sum(dep_delay)::BIGINT / nullif(count(dep_delay), 0), 2) AS avg_dep_delay,
  round(sum(arr_delay)::BIGINT / nullif(arrived, 0), 2) AS avg_arr_delay,
  median(arr_delay) AS median_arr_delay,
  max(arr_delay) AS worst_arr_delay
FROM silver.flights AS f
LEFT JOIN silver.airlines AS a ON a.carrier = f.carrier
GROUP BY f.carrier, f.month
