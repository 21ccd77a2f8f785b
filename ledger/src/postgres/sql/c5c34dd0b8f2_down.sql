ALTER TABLE dpo.execution RENAME TO after_execution;
ALTER TABLE dpo.execution_step RENAME TO after_execution_step;
ALTER TABLE dpo.execution_step_model RENAME TO after_execution_step_model;

CREATE TABLE dpo.execution (
    id uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    last_updated_on timestamptz NOT NULL DEFAULT now(),
    execution_time_ms integer,
    status varchar(50) NOT NULL DEFAULT 'INITIALISED'
);
CREATE TABLE dpo.execution_model (
    id serial PRIMARY KEY,
    execution_id uuid NOT NULL REFERENCES dpo.execution (id),
    created_on timestamptz NOT NULL DEFAULT now(),
    last_updated_on timestamptz NOT NULL DEFAULT now(),
    type varchar(100) NOT NULL,
    name varchar(250) NOT NULL,
    checksum varchar(100) NOT NULL
);

INSERT INTO dpo.execution (id, created_on, last_updated_on, status, execution_time_ms)
SELECT execution_id, created_on, updated_on, status, least(execution_time_ms, 2147483647)
FROM dpo.after_execution;

INSERT INTO dpo.execution_model (execution_id, created_on, last_updated_on, type, name, checksum)
SELECT s.execution_id, m.created_on, m.updated_on, s.step_name, m.model_name, m.checksum
FROM dpo.after_execution_step_model m
JOIN dpo.after_execution_step s USING (execution_step_id)
ORDER BY s.created_on, s.execution_step_id, m.model_name;

DROP TABLE dpo.after_execution_step_model;
DROP TABLE dpo.after_execution_step;
DROP TABLE dpo.after_execution;
