ALTER TABLE dpo.execution RENAME TO data_pipeline_execution;
ALTER TABLE dpo.execution_model RENAME TO model_checksum;
