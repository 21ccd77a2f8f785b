SELECT tailnum, seats, engine, __dpone__valid_from_at AS valid_from, __dpone__valid_to_at AS valid_to,
       __dpone__is_current AS current
FROM lake.history.planes
WHERE tailnum IN ('N103US', 'N104UW', 'N105UW')
ORDER BY tailnum, valid_from
