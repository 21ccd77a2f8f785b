ALTER TABLE dpo.data_pipeline_execution RENAME TO execution;
ALTER TABLE dpo.model_checksum RENAME TO execution_model;
