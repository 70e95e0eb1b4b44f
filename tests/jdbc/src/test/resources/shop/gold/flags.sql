SELECT coalesce(flag::VARCHAR, 'unknown') AS state, count(*)::BIGINT AS samples
FROM silver.samples
GROUP BY ALL
