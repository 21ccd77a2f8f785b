SELECT a.name AS airline,
       count(*) AS flights,
       round(100.0 * count(*) FILTER (WHERE f.arr_delay < 15) / count(f.arr_delay), 1) AS on_time_percent,
       round(avg(f.dep_delay), 1) AS minutes_late,
       round(avg(f.dep_delay) FILTER (WHERE w.precip > 0 OR w.visib < 3), 1) AS in_bad_weather
FROM lake.landing.flights f
JOIN lake.landing.airlines a ON a.carrier = f.carrier
LEFT JOIN lake.landing.weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
GROUP BY a.name
ORDER BY flights DESC
LIMIT 10
