-- Four of the five tables of a year of flights, from files into Delta tables under warehouse/. The fifth, the weather,
-- is in dpone.yml, to show the other way to write a pipeline. Paths begin at the folder of this file.

-- Files that do not change. In a folder, a table is a file or a folder of files: reference.files.planes is
-- data/planes.csv. "NA" is how these files write a missing value.
CREATE CONNECTION reference TYPE file OPTIONS ('path' 'data', 'null_values' 'NA');

-- Files that arrive, one a month: inbox.files.flights is inbox/flights/*.csv.gz.
CREATE CONNECTION inbox TYPE file OPTIONS ('path' 'inbox', 'null_values' 'NA');

CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');

-- Small tables are simply loaded again. Readers see the old table or the new one, never a part.
CREATE PIPELINE airlines INTO lake.landing.airlines
  STRATEGY full_refresh
AS SELECT * FROM reference.files.airlines;

CREATE PIPELINE airports INTO lake.landing.airports
  STRATEGY full_refresh
AS SELECT faa, name, lat, lon, alt, tzone FROM reference.files.airports;

CREATE PIPELINE planes INTO lake.landing.planes
  STRATEGY full_refresh
AS SELECT * FROM reference.files.planes;

-- Flights are merged: rows whose time_hour was not seen yet are read, and inserted or updated by key.
CREATE PIPELINE flights INTO lake.landing.flights
  STRATEGY incremental_merge KEY (year, month, day, carrier, flight, origin) CURSOR time_hour
AS SELECT * FROM inbox.files.flights;
