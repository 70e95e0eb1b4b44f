-- Row by row: one airport in, one airport out.
-- The source has EEN's latitude and longitude swapped, and the sign of its longitude lost.
SELECT
  * REPLACE (
    CASE WHEN faa = 'EEN' AND lat > 72 THEN lon ELSE lat END AS lat,
    CASE WHEN faa = 'EEN' AND lat > 72 THEN -lat ELSE lon END AS lon
  ),
  round(alt * 0.3048)::INTEGER AS alt_m
FROM incoming
