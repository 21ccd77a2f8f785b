//! Databases that the original tool made: its tables as its migrations leave them, and its version table.

use super::support::{Database, every_postgres};

/// As `pg_dump` shows the tables of the original's newest revision.
const TABLES: &str = "
    CREATE SCHEMA dpo;
    CREATE TABLE dpo.execution (
        execution_id uuid NOT NULL,
        created_on timestamp with time zone DEFAULT now() NOT NULL,
        updated_on timestamp with time zone DEFAULT now() NOT NULL,
        status character varying(50) DEFAULT 'INITIALISED'::character varying NOT NULL,
        started_on timestamp with time zone DEFAULT now() NOT NULL,
        completed_on timestamp with time zone,
        execution_time_ms bigint,
        CONSTRAINT execution_pkey1 PRIMARY KEY (execution_id)
    );
    CREATE TABLE dpo.execution_step (
        execution_step_id uuid NOT NULL PRIMARY KEY,
        created_on timestamp with time zone DEFAULT now() NOT NULL,
        updated_on timestamp with time zone DEFAULT now() NOT NULL,
        execution_id uuid NOT NULL REFERENCES dpo.execution (execution_id),
        step_name character varying(100) NOT NULL,
        status character varying(50) DEFAULT 'INITIALISED'::character varying NOT NULL,
        started_on timestamp with time zone DEFAULT now() NOT NULL,
        completed_on timestamp with time zone,
        execution_time_ms bigint,
        rows_processed bigint
    );
    CREATE TABLE dpo.execution_step_model (
        execution_step_model_id uuid NOT NULL PRIMARY KEY,
        created_on timestamp with time zone DEFAULT now() NOT NULL,
        updated_on timestamp with time zone DEFAULT now() NOT NULL,
        execution_step_id uuid NOT NULL REFERENCES dpo.execution_step (execution_step_id),
        model_name character varying(250) NOT NULL,
        checksum character varying(100) NOT NULL
    );";

const VERSION: &str = "
    CREATE TABLE public.alembic_version_dpo (
        version_num character varying(32) NOT NULL CONSTRAINT alembic_version_dpo_pkc PRIMARY KEY
    );
    INSERT INTO public.alembic_version_dpo VALUES ('c5c34dd0b8f2');";

const OLD: &str = "11111111-1111-4111-8111-111111111111";

/// One successful execution whose TRANSFORM step had the models `a` and `b`, both of the text `1\n`.
const ROWS: &str = "
    INSERT INTO dpo.execution (execution_id, status, completed_on, execution_time_ms)
    VALUES ('11111111-1111-4111-8111-111111111111', 'COMPLETED', '2020-03-13 10:00:00.5+02', 1500);
    INSERT INTO dpo.execution_step (execution_step_id, execution_id, step_name, status)
    VALUES ('22222222-2222-4222-8222-222222222222', '11111111-1111-4111-8111-111111111111', 'TRANSFORM', 'COMPLETED');
    INSERT INTO dpo.execution_step_model (execution_step_model_id, execution_step_id, model_name, checksum)
    SELECT id::uuid, '22222222-2222-4222-8222-222222222222', name,
           '4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865'
    FROM (VALUES ('33333333-3333-4333-8333-333333333333', 'a'), ('44444444-4444-4444-8444-444444444444', 'b'))
        AS m (id, name);";

/// What changed since the original's execution, according to `dpo`.
fn goes_on(db: &Database) {
    assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), OLD);
    assert_eq!(db.dpo(&["get-execution-completion-timestamp", OLD]).ok(), "2020-03-13T08:00:00.500000+00:00");
    db.write("models/a.sql", "1\n");
    db.write("models/b.sql", "2\n");
    let execution = db.init_execution();
    let step = db.init_step(&execution, "TRANSFORM");
    assert_eq!(db.dpo(&["compare-step-models", &step, OLD]).ok(), "b");
    db.dpo(&["complete-step", &step, "5"]).ok();
    db.dpo(&["complete-execution", &execution]).ok();
    assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), execution);
}

#[test]
fn a_database_of_the_original_goes_on() {
    every_postgres(|db| {
        db.execute(&[TABLES, VERSION, ROWS].concat());
        assert_eq!(db.dpo(&["current"]).ok(), "c5c34dd0b8f2");
        goes_on(db);
        assert_eq!(db.dpo(&["current"]).ok(), "5b1e0c6a94d3");
        // The original's own migrations still know where they are.
        assert_eq!(db.rows("SELECT version_num FROM public.alembic_version_dpo"), ["c5c34dd0b8f2"]);
    });
}

#[test]
fn tables_without_a_version_table_are_known_by_their_shape() {
    let db = Database::postgres();
    db.execute(&[TABLES, ROWS].concat());
    goes_on(&db);
}

#[test]
fn an_older_database_of_the_original_is_brought_up() {
    every_postgres(|db| {
        db.dpo(&["upgrade", "fe9eed6d812f"]).ok();
        db.execute(&VERSION.replace("c5c34dd0b8f2", "fe9eed6d812f"));
        // Without our own table it is just as the original left it.
        db.execute("DROP TABLE dpo.schema_revision");
        db.execute(
            "INSERT INTO dpo.execution (id, status, last_updated_on)
             VALUES ('11111111-1111-4111-8111-111111111111', 'COMPLETED', '2020-03-13 10:00:00.5+02');
             INSERT INTO dpo.execution_model (execution_id, type, name, checksum)
             SELECT '11111111-1111-4111-8111-111111111111', 'TRANSFORM', name,
                    '4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865'
             FROM (VALUES ('a'), ('b')) AS m (name)",
        );
        let first = db.dpo(&["get-last-successful-execution"]);
        assert!(first.stderr.contains("moved from fe9eed6d812f to 5b1e0c6a94d3"), "{first:?}");
        goes_on(db);
        assert_eq!(db.rows("SELECT version_num FROM public.alembic_version_dpo"), ["c5c34dd0b8f2"]);
        db.dpo(&["downgrade", "7d9871ef8afa"]).ok();
        assert_eq!(db.rows("SELECT version_num FROM public.alembic_version_dpo"), ["7d9871ef8afa"]);
        // The original may move it too: its table counts.
        db.execute(
            "ALTER TABLE dpo.model_checksum RENAME TO execution_model;
             ALTER TABLE dpo.data_pipeline_execution RENAME TO execution;
             UPDATE public.alembic_version_dpo SET version_num = 'fe9eed6d812f'",
        );
        assert_eq!(db.dpo(&["current"]).ok(), "fe9eed6d812f");
        db.dpo(&["upgrade"]).ok();
        assert_eq!(db.dpo(&["current"]).ok(), "5b1e0c6a94d3");
    });
}

#[test]
fn a_revision_of_the_original_that_is_not_known_is_named() {
    let db = Database::postgres();
    db.execute(&[TABLES, &VERSION.replace("c5c34dd0b8f2", "0365e0de38b4")].concat());
    db.dpo(&["init-execution"]).fails(1, "schema revision 0365e0de38b4, which this dpo does not know");
}

/// A role that may read and write the tables and change nothing about them.
#[test]
fn a_role_without_rights_to_the_schema_goes_on_with_the_tables_as_they_are() {
    every_postgres(|db| {
        db.execute(&[TABLES, VERSION, ROWS].concat());
        let role = format!("dpo_user_{}", uuid::Uuid::new_v4().simple());
        db.execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA dpo TO {role};
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA dpo TO {role};
             GRANT SELECT ON public.alembic_version_dpo TO {role}"
        ));
        let url = db.url.replacen("://postgres@", &format!("://{role}@"), 1);
        let dpo = |arguments: &[&str]| super::support::dpo(db.path(), &[&[url.as_str()], arguments].concat());
        let last = dpo(&["get-last-successful-execution"]);
        assert!(last.stderr.contains("the schema stays at c5c34dd0b8f2"), "{last:?}");
        assert_eq!(last.ok(), OLD);
        let execution = dpo(&["init-execution"]).ok();
        dpo(&["complete-execution", &execution]).ok();
        dpo(&["upgrade"]).fails(1, "42501");
        // Once the owner has done it, there is nothing left to tell.
        db.dpo(&["upgrade"]).ok();
        let last = dpo(&["get-last-successful-execution"]);
        assert_eq!((last.stdout.trim_end(), last.stderr.as_str()), (execution.as_str(), ""));
        db.execute(
            "REVOKE ALL ON dpo.schema_revision FROM PUBLIC; REVOKE ALL ON public.alembic_version_dpo FROM PUBLIC",
        );
        db.execute(&format!("REVOKE ALL ON public.alembic_version_dpo FROM {role}"));
        dpo(&["init-execution"]).ok();
        db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    });
}
