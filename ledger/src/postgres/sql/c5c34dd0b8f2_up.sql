ALTER TABLE dpo.execution RENAME TO before_execution;
ALTER TABLE dpo.execution_model RENAME TO before_execution_model;

CREATE TABLE dpo.execution (
    execution_id uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    updated_on timestamptz NOT NULL DEFAULT now(),
    status varchar(50) NOT NULL DEFAULT 'INITIALISED',
    started_on timestamptz NOT NULL DEFAULT now(),
    completed_on timestamptz,
    execution_time_ms bigint
);
CREATE TABLE dpo.execution_step (
    execution_step_id uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    updated_on timestamptz NOT NULL DEFAULT now(),
    execution_id uuid NOT NULL REFERENCES dpo.execution (execution_id),
    step_name varchar(100) NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'INITIALISED',
    started_on timestamptz NOT NULL DEFAULT now(),
    completed_on timestamptz,
    execution_time_ms bigint,
    rows_processed bigint
);
CREATE TABLE dpo.execution_step_model (
    execution_step_model_id uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    updated_on timestamptz NOT NULL DEFAULT now(),
    execution_step_id uuid NOT NULL REFERENCES dpo.execution_step (execution_step_id),
    model_name varchar(250) NOT NULL,
    checksum varchar(100) NOT NULL
);

INSERT INTO dpo.execution (execution_id, created_on, updated_on, status, started_on, completed_on, execution_time_ms)
SELECT id, created_on, last_updated_on, status, created_on,
       CASE WHEN status = 'COMPLETED' THEN last_updated_on END, execution_time_ms
FROM dpo.before_execution;

-- A step is what the models of one type were. Ids are made of what they stand for: no extension is needed for them.
INSERT INTO dpo.execution_step (execution_step_id, execution_id, created_on, updated_on, step_name, status, started_on)
SELECT md5(execution_id || '/' || type)::uuid, execution_id, min(created_on), max(last_updated_on), type, 'UNKNOWN',
       min(created_on)
FROM dpo.before_execution_model
GROUP BY execution_id, type;

INSERT INTO dpo.execution_step_model
    (execution_step_model_id, execution_step_id, created_on, updated_on, model_name, checksum)
SELECT md5(execution_id || '/' || type || '/' || id)::uuid, md5(execution_id || '/' || type)::uuid, created_on,
       last_updated_on, name, checksum
FROM dpo.before_execution_model;

DROP TABLE dpo.before_execution_model;
DROP TABLE dpo.before_execution;
