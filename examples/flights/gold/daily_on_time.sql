-- The window spans seven calendar days, so a day without flights would not stretch it.
WITH days AS (
  SELECT
    make_date(year, month, day) AS date,
    count(*) AS flights,
    count(*) FILTER (status = 'cancelled') AS cancelled,
    count(arr_delay) AS arrived,
    count(*) FILTER (arr_delay < 15) AS on_time
  FROM silver.flights
  GROUP BY ALL
)
SELECT
  date,
  dayname(date) AS weekday,
  flights,
  cancelled,
  arrived,
  on_time,
  round(on_time / nullif(arrived, 0), 4) AS on_time_share,
  count(*) OVER week AS days_7d,
  sum(arrived) OVER week::BIGINT AS arrived_7d,
  sum(on_time) OVER week::BIGINT AS on_time_7d,
  round(on_time_7d / nullif(arrived_7d, 0), 4) AS on_time_share_7d
FROM days
WINDOW week AS (ORDER BY date RANGE BETWEEN INTERVAL 6 DAYS PRECEDING AND CURRENT ROW)
