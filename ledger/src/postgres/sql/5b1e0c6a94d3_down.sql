DROP INDEX IF EXISTS dpo.execution_step_execution_id_idx;
DROP INDEX IF EXISTS dpo.execution_step_model_execution_step_id_idx;
