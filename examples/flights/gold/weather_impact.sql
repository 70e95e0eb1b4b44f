-- Every flight counts once under each factor; hours without a (plausible) recording are "not measured".
WITH measured AS (
  SELECT
    f.status,
    f.dep_delay,
    w.precip,
    w.visib,
    if(w.wind_speed < 200, w.wind_speed, NULL) AS wind_speed
  FROM silver.flights AS f
  LEFT JOIN silver.weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
),
bucketed AS (
  SELECT
    status,
    dep_delay,
    unnest([
      {
        factor: 'precipitation',
        bucket: CASE
          WHEN precip IS NULL THEN '0 not measured'
          WHEN precip = 0 THEN '1 dry'
          WHEN precip < 0.05 THEN '2 under 0.05 in/h'
          WHEN precip < 0.2 THEN '3 under 0.2 in/h'
          ELSE '4 0.2 in/h and more'
        END
      },
      {
        factor: 'visibility',
        bucket: CASE
          WHEN visib IS NULL THEN '0 not measured'
          WHEN visib >= 10 THEN '1 10 miles'
          WHEN visib >= 5 THEN '2 5 to 10 miles'
          WHEN visib >= 1 THEN '3 1 to 5 miles'
          ELSE '4 under 1 mile'
        END
      },
      {
        factor: 'wind',
        bucket: CASE
          WHEN wind_speed IS NULL THEN '0 not measured'
          WHEN wind_speed < 8 THEN '1 under 8 mph'
          WHEN wind_speed < 16 THEN '2 8 to 16 mph'
          WHEN wind_speed < 24 THEN '3 16 to 24 mph'
          ELSE '4 24 mph and more'
        END
      }
    ], recursive := true)
  FROM measured
)
SELECT
  factor,
  left(bucket, 1)::INTEGER AS severity,
  substr(bucket, 3) AS conditions,
  count(*) AS flights,
  count(*) FILTER (status = 'cancelled') AS cancelled,
  round(cancelled / flights, 4) AS cancelled_share,
  count(dep_delay) AS departed,
  count(*) FILTER (dep_delay >= 15) AS departed_late,
  round(departed_late / nullif(departed, 0), 4) AS departed_late_share,
  round(sum(dep_delay)::BIGINT / nullif(departed, 0), 2) AS avg_dep_delay,
  quantile_disc(dep_delay, 0.9) AS dep_delay_p90
FROM bucketed
GROUP BY factor, bucket
