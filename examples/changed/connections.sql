-- Where the five pipelines read from and write to. Paths begin at the folder of this file.
CREATE CONNECTION shop TYPE file OPTIONS ('path' 'data');
CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');
