CREATE TABLE dpo.data_pipeline_execution (
    id uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    last_updated_on timestamptz NOT NULL DEFAULT now(),
    execution_time_ms integer,
    status varchar(50) NOT NULL DEFAULT 'INITIALISED'
);
CREATE TABLE dpo.model_checksum (
    id serial PRIMARY KEY,
    execution_id uuid NOT NULL REFERENCES dpo.data_pipeline_execution (id),
    created_on timestamptz NOT NULL DEFAULT now(),
    last_updated_on timestamptz NOT NULL DEFAULT now(),
    type varchar(100) NOT NULL,
    name varchar(250) NOT NULL,
    checksum varchar(100) NOT NULL
);
