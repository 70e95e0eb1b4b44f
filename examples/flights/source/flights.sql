-- What silver.flights must hold in the end: each flight of the source once, as it ended.
SELECT
  2 * row_number() OVER (ORDER BY time_hour, carrier, flight, origin) AS flight_id,
  CASE WHEN dep_time IS NULL THEN 'cancelled' ELSE 'arrived' END AS status,
  carrier,
  flight,
  tailnum,
  origin,
  dest,
  distance,
  year,
  month,
  day,
  hour,
  minute,
  time_hour,
  time_hour + to_minutes(minute) AS sched_dep,
  sched_dep_time,
  sched_arr_time,
  dep_time,
  dep_delay,
  arr_time,
  arr_delay,
  air_time,
  -- Cancelled 90 minutes ahead; arrived after its time in the air and 25 minutes of taxiing, or (diverted) 8 hours.
  time_hour + to_minutes(minute + CASE
    WHEN dep_time IS NULL THEN -90
    WHEN air_time IS NULL THEN dep_delay + 480
    ELSE dep_delay + air_time + 25
  END) AS updated_at
FROM 'flights.parquet'
