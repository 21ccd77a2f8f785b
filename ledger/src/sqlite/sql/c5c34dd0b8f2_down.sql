DROP TABLE execution_step_model;
DROP TABLE execution_step;
DROP TABLE execution;
