SELECT coalesce(c.city, 'unknown') AS city, count(*) AS orders, sum(o.total) AS total
FROM silver.orders o
LEFT JOIN silver.customers c USING (customer_id)
GROUP BY 1
