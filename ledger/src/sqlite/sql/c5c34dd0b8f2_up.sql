CREATE TABLE execution (
    execution_id TEXT PRIMARY KEY NOT NULL,
    created_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    updated_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    status TEXT NOT NULL DEFAULT 'INITIALISED',
    started_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    completed_on TEXT,
    execution_time_ms BIGINT
);
CREATE TABLE execution_step (
    execution_step_id TEXT PRIMARY KEY NOT NULL,
    created_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    updated_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    execution_id TEXT NOT NULL REFERENCES execution (execution_id),
    step_name TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'INITIALISED',
    started_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    completed_on TEXT,
    execution_time_ms BIGINT,
    rows_processed BIGINT
);
CREATE TABLE execution_step_model (
    execution_step_model_id TEXT PRIMARY KEY NOT NULL,
    created_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    updated_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),
    execution_step_id TEXT NOT NULL REFERENCES execution_step (execution_step_id),
    model_name TEXT NOT NULL,
    checksum TEXT NOT NULL
);
