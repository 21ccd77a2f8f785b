CREATE INDEX IF NOT EXISTS execution_step_execution_id_idx ON dpo.execution_step (execution_id);
CREATE INDEX IF NOT EXISTS execution_step_model_execution_step_id_idx ON dpo.execution_step_model (execution_step_id);
