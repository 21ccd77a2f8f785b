DROP TABLE dpo.model_checksum;
DROP TABLE dpo.data_pipeline_execution;
