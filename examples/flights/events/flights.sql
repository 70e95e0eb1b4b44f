-- The life of every flight as the messages that its airline would have sent, in the order in which they arrive.
--
-- A flight is scheduled a day ahead, departs, and arrives; or it is cancelled. `updated_at` says when its state began,
-- `sent_at` when the message arrives: mostly at once. The rest is what real streams do, at fixed places so that each
-- run is the same: messages arrive late or twice, and a few entries (odd ids) are withdrawn, some of them with an
-- older message behind the withdrawal, which must not bring them back.
WITH life AS MATERIALIZED (
  SELECT
    *,
    row_number() OVER (ORDER BY time_hour, carrier, flight, origin) AS n,
    time_hour + to_minutes(minute) AS sched_dep,
    sched_dep - to_hours(24) AS scheduled_at,
    sched_dep - to_minutes(90) AS cancelled_at,
    sched_dep + to_minutes(dep_delay) AS departed_at,
    -- 25 minutes of taxiing; a flight without air time was diverted, and is closed after eight hours.
    departed_at + to_minutes(coalesce(air_time + 25, 480)) AS arrived_at,
    coalesce(arrived_at, cancelled_at) AS closed_at,
    scheduled_at + to_hours(6) AS withdrawn_at
  FROM 'flights.parquet'
),
sent AS (
  -- The plain life of a flight. One in 101 is scheduled late, one in 40 reports its departure after its arrival.
  SELECT n, 0 AS twin, 'upsert' AS op, 'scheduled' AS status, scheduled_at AS updated_at,
    if(n % 101 = 17, closed_at + to_minutes(10), scheduled_at) AS sent_at
  FROM life
  UNION ALL
  SELECT n, 0, 'upsert', 'departed', departed_at, if(n % 40 = 11, arrived_at + to_minutes(5), departed_at)
  FROM life WHERE dep_time IS NOT NULL
  UNION ALL
  SELECT n, 0, 'upsert', 'arrived', arrived_at, arrived_at FROM life WHERE dep_time IS NOT NULL
  UNION ALL
  SELECT n, 0, 'upsert', 'cancelled', cancelled_at, cancelled_at FROM life WHERE dep_time IS NULL
  UNION ALL
  -- Sent twice: the last state at once, the first one two days later.
  SELECT n, 0, 'upsert', if(dep_time IS NULL, 'cancelled', 'arrived'), closed_at, closed_at + to_minutes(2)
  FROM life WHERE n % 50 = 3
  UNION ALL
  SELECT n, 0, 'upsert', 'scheduled', scheduled_at, scheduled_at + to_hours(48) FROM life WHERE n % 60 = 7
  UNION ALL
  -- Entered twice by mistake, then withdrawn; for one in three the withdrawal overtakes the entry. A delete repeats
  -- what it withdraws, so the columns of the schedule are never NULL.
  SELECT n, 1, 'upsert', 'scheduled', scheduled_at,
    if(n % 99 = 40, withdrawn_at + to_minutes(20), scheduled_at)
  FROM life WHERE n % 33 = 7
  UNION ALL
  SELECT n, 1, 'delete', 'scheduled', withdrawn_at, withdrawn_at FROM life WHERE n % 33 = 7
  UNION ALL
  -- For another third an update from before the withdrawal comes three hours after it.
  SELECT n, 1, 'upsert', 'scheduled', scheduled_at + to_hours(2), withdrawn_at + to_hours(3)
  FROM life WHERE n % 99 = 7
)
SELECT
  2 * n + twin AS flight_id,
  status,
  carrier,
  flight,
  if(status = 'scheduled', NULL, tailnum) AS tailnum,
  origin,
  dest,
  distance,
  year,
  month,
  day,
  hour,
  minute,
  time_hour,
  sched_dep,
  sched_dep_time,
  sched_arr_time,
  if(status IN ('departed', 'arrived'), dep_time, NULL) AS dep_time,
  if(status IN ('departed', 'arrived'), dep_delay, NULL) AS dep_delay,
  if(status = 'arrived', arr_time, NULL) AS arr_time,
  if(status = 'arrived', arr_delay, NULL) AS arr_delay,
  if(status = 'arrived', air_time, NULL) AS air_time,
  updated_at,
  op
FROM sent JOIN life USING (n)
ORDER BY sent_at, flight_id, updated_at
