-- The history of a register of planes: which plane was what, and when. The register itself only says what is true now.

-- registry.files.planes is registry/planes.csv, a full export of the register.
CREATE CONNECTION registry TYPE file OPTIONS ('path' 'registry', 'null_values' 'NA');
CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');

-- Every version of a plane, with the time during which it held.
CREATE PIPELINE planes_history INTO lake.history.planes
  STRATEGY scd2 KEY (tailnum)
AS SELECT tailnum, year, manufacturer, model, engines, seats, engine FROM registry.files.planes;

-- The register as it is, with the planes that have left it marked.
CREATE PIPELINE planes_mirror INTO lake.mirror.planes
  STRATEGY snapshot_diff KEY (tailnum) OPTIONS ('diff_delete_policy' 'soft_delete')
AS SELECT tailnum, year, manufacturer, model, engines, seats, engine FROM registry.files.planes;
