-- A model over a model. Airlines with fewer than 100 arrivals in a month are left out of it.
WITH placed AS (
  SELECT
    month,
    carrier,
    airline,
    arrived,
    on_time,
    on_time_share,
    row_number() OVER (PARTITION BY month ORDER BY on_time_share DESC, arrived DESC, carrier) AS place,
    count(*) OVER (PARTITION BY month) AS ranked
  FROM gold.carrier_delays
  WHERE arrived >= 100
)
SELECT
  month,
  place,
  ranked,
  carrier,
  airline,
  arrived,
  on_time_share,
  lag(place) OVER by_carrier - place AS places_gained,
  round(
    sum(on_time) OVER (by_carrier ROWS UNBOUNDED PRECEDING)::BIGINT
      / sum(arrived) OVER (by_carrier ROWS UNBOUNDED PRECEDING)::BIGINT,
    4
  ) AS on_time_share_so_far
FROM placed
WINDOW by_carrier AS (PARTITION BY carrier ORDER BY month)
