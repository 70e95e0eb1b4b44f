WITH dated AS (
  SELECT origin, status, dep_delay, make_date(year, month, day) AS date
  FROM silver.flights
),
newest AS (
  SELECT origin, max(date) AS date
  FROM dated
  GROUP BY origin
)
SELECT
  d.origin,
  n.date,
  count(*) FILTER (d.date = n.date) AS flights_that_day,
  count(*) FILTER (d.date = n.date AND status = 'cancelled') AS cancelled_that_day,
  count(*) FILTER (d.date = n.date AND dep_delay >= 15) AS departed_late_that_day,
  count(*) AS flights_so_far,
  count(*) FILTER (status = 'cancelled') AS cancelled_so_far,
  count(*) FILTER (dep_delay >= 15) AS departed_late_so_far
FROM dated AS d
JOIN newest AS n ON n.origin = d.origin
GROUP BY d.origin, n.date
