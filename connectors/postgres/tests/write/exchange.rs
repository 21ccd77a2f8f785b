//! The exchange: what belongs to the table stays, and readers never see a part.

use super::*;

/// `pg_dump -s`, or nothing where no program is new enough for the server.
fn dump(url: &str, schema: &str) -> Option<String> {
    let best = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok().map(|e| e.path().join("bin/pg_dump")))
        .filter(|p| p.exists())
        .max();
    let output = Command::new(best.unwrap_or_else(|| "pg_dump".into())).args(["-s", "-n", schema, "-d", url]).output();
    let output = output.ok()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("server version mismatch") {
        return None;
    }
    assert!(output.status.success(), "{complaint}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Newer programs fence their output with a random word.
    let text: Vec<_> =
        text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict")).collect();
    // Our own tables are not what is compared.
    Some(text.join("\n").split("\n--\n").filter(|part| !part.contains("__dpone__")).collect::<Vec<_>>().join("\n--\n"))
}

/// What the catalog says about the tables of a schema, apart from OIDs.
const CATALOG: &[&str] = &[
    "SELECT c.relname, c.relkind, c.relpersistence, c.reloptions, c.relreplident, c.relrowsecurity, c.relacl, \
            c.relowner, c.relchecks, c.reltablespace, obj_description(c.oid, 'pg_class') \
       FROM pg_class c WHERE relnamespace = '$S'::regnamespace AND relname !~ '__dpone__' ORDER BY 1",
    "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attstattarget, \
            a.attstorage, a.attoptions, a.attacl, a.attcollation, col_description(c.oid, a.attnum), \
            (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = a.attnum) \
       FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
      WHERE relnamespace = '$S'::regnamespace AND relname !~ '__dpone__' AND attnum > 0 ORDER BY 1, a.attnum",
    "SELECT conrelid::regclass, conname, contype, convalidated, condeferrable, condeferred, pg_get_constraintdef(oid), \
            obj_description(oid, 'pg_constraint') \
       FROM pg_constraint WHERE connamespace = '$S'::regnamespace AND conname !~ '__dpone__' ORDER BY conrelid::regclass::text, 2",
    "SELECT i.indexrelid::regclass, indisunique, indisprimary, indisclustered, indisreplident, indisvalid, \
            pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
      WHERE c.relnamespace = '$S'::regnamespace AND c.relname !~ '__dpone__' ORDER BY c.relname",
    "SELECT tgname, tgenabled, pg_get_triggerdef(t.oid), obj_description(t.oid, 'pg_trigger') FROM pg_trigger t \
       JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace = '$S'::regnamespace AND NOT tgisinternal ORDER BY 1",
    "SELECT p.*, obj_description(o.oid, 'pg_policy') FROM pg_policies p JOIN pg_policy o ON o.polname = p.policyname \
      WHERE schemaname = '$S' ORDER BY p.policyname",
    "SELECT stxname, pg_get_statisticsobjdef(oid), obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext \
      WHERE stxnamespace = '$S'::regnamespace",
    "SELECT s.relname, d.refobjid::regclass, d.refobjsubid, d.deptype FROM pg_depend d JOIN pg_class s ON s.oid = d.objid \
      WHERE s.relkind = 'S' AND s.relnamespace = '$S'::regnamespace AND d.refclassid = 'pg_class'::regclass ORDER BY 1",
    "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle \
       FROM pg_sequence s JOIN pg_class c ON c.oid = seqrelid WHERE relnamespace = '$S'::regnamespace ORDER BY c.relname",
    "SELECT pubname, prrelid::regclass, to_jsonb(r) - 'oid' - 'prrelid' - 'prpubid' - 'prqual' FROM pg_publication_rel r \
       JOIN pg_publication p ON p.oid = prpubid WHERE pubname = 'w_keep_pub'",
];

async fn catalog(place: &Place) -> Vec<String> {
    let mut all = Vec::new();
    for sql in CATALOG {
        all.extend(place.rows(sql).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_keeps_everything_that_belongs_to_the_table() {
    // The newest server may be newer than the machine's pg_dump: an older one is asked too, where there is one.
    let mut urls = vec![url()];
    urls.extend(std::env::var("DPONE_TEST_POSTGRES_15_URL").ok().filter(|other| *other != urls[0]));
    for url in urls {
        exchange_keeps_everything(&url).await;
    }
}

async fn exchange_keeps_everything(url: &str) {
    let place = Place::at(url, "w_keep").await;
    let role = "dpone_test_reader";
    place
        .run(&format!(
            "DO $$BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END$$; \
             DROP PUBLICATION IF EXISTS w_keep_pub"
        ))
        .await;
    let version: i32 =
        place.client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    place
        .run(&format!(
            r#"
        CREATE TABLE $S.country (code text PRIMARY KEY);
        INSERT INTO $S.country VALUES ('de'), ('fr');
        CREATE FUNCTION $S.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE DOMAIN $S.positive AS bigint CHECK (VALUE > 0);
        CREATE TABLE $S."we""ird; t" (
            id integer GENERATED BY DEFAULT AS IDENTITY (START 7 INCREMENT 3),
            serial_no serial,
            name text COLLATE "C" NOT NULL DEFAULT 'it''s',
            amount $S.positive,
            country text REFERENCES $S.country (code) ON DELETE CASCADE,
            parent integer,
            during int4range,
            CONSTRAINT "the key" PRIMARY KEY (id),
            CONSTRAINT one_name UNIQUE (name, serial_no) DEFERRABLE INITIALLY DEFERRED,
            CONSTRAINT not_at_once EXCLUDE USING gist (during WITH &&),
            CONSTRAINT sane CHECK (amount < 1000000),
            CONSTRAINT tree FOREIGN KEY (parent) REFERENCES $S."we""ird; t" (id)
        ) WITH (fillfactor = 71, autovacuum_vacuum_threshold = 77);
        ALTER TABLE $S."we""ird; t" ADD CONSTRAINT later CHECK (name <> '') NOT VALID;
        CREATE INDEX "an index" ON $S."we""ird; t" USING btree (lower(name) DESC NULLS LAST) WHERE amount > 5;
        CREATE UNIQUE INDEX covering ON $S."we""ird; t" (serial_no) INCLUDE (name) WITH (fillfactor = 60);
        ALTER INDEX $S."an index" ALTER COLUMN 1 SET STATISTICS 55;
        ALTER TABLE $S."we""ird; t" CLUSTER ON "the key", REPLICA IDENTITY USING INDEX "the key";
        ALTER TABLE $S."we""ird; t" ALTER name SET STATISTICS 321, ALTER name SET STORAGE EXTERNAL,
            ALTER amount SET (n_distinct = -0.5);
        CREATE STATISTICS $S.both_of (dependencies) ON name, country FROM $S."we""ird; t";
        CREATE TRIGGER noted BEFORE INSERT OR UPDATE OF name ON $S."we""ird; t" FOR EACH ROW
            WHEN (NEW.amount > 3) EXECUTE FUNCTION $S.note();
        CREATE TRIGGER silent AFTER DELETE ON $S."we""ird; t" FOR EACH ROW EXECUTE FUNCTION $S.note();
        ALTER TABLE $S."we""ird; t" DISABLE TRIGGER silent;
        ALTER TABLE $S."we""ird; t" ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON $S."we""ird; t" AS RESTRICTIVE FOR UPDATE TO {role} USING (name = current_user) WITH CHECK (id > 0);
        CREATE POLICY everyone ON $S."we""ird; t" USING (true);
        GRANT SELECT, INSERT ON $S."we""ird; t" TO {role} WITH GRANT OPTION;
        GRANT UPDATE (name) ON $S."we""ird; t" TO PUBLIC;
        GRANT USAGE ON SEQUENCE $S."we""ird; t_id_seq" TO {role};
        REVOKE TRUNCATE ON $S."we""ird; t" FROM CURRENT_USER;
        ALTER DEFAULT PRIVILEGES IN SCHEMA $S GRANT DELETE ON TABLES TO {role};
        COMMENT ON TABLE $S."we""ird; t" IS 'it''s a \ table';
        COMMENT ON COLUMN $S."we""ird; t".name IS 'a column';
        COMMENT ON CONSTRAINT "the key" ON $S."we""ird; t" IS 'a key';
        COMMENT ON CONSTRAINT sane ON $S."we""ird; t" IS 'a check';
        COMMENT ON INDEX $S."an index" IS 'an index';
        COMMENT ON TRIGGER noted ON $S."we""ird; t" IS 'a trigger';
        COMMENT ON POLICY own ON $S."we""ird; t" IS 'a policy';
        COMMENT ON STATISTICS $S.both_of IS 'statistics';
        CREATE PUBLICATION w_keep_pub FOR TABLE $S."we""ird; t"{};
        INSERT INTO $S."we""ird; t" (name, amount, country) VALUES ('old', 10, 'de'), ('older', 10, 'fr');
        "#,
            if version >= 150_000 { r#" (id, name) WHERE (id > 3)"# } else { "" }
        ))
        .await;
    let before = (dump(url, "w_keep"), catalog(&place).await);
    let oid = place.rows(r#"SELECT '$S."we""ird; t"'::regclass::oid"#).await;

    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("serial_no", DataType::Int32, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("amount", DataType::Int64, true),
        Field::new("country", DataType::Utf8, true),
        Field::new("parent", DataType::Int32, true),
        Field::new("during", DataType::Utf8, true),
    ]));
    let batch = |ids: Vec<i32>, country: &str| {
        let n = ids.len();
        RecordBatch::try_new(
            Arc::clone(&staged),
            vec![
                Arc::new(Int32Array::from(ids.clone())),
                Arc::new(Int32Array::from(ids.iter().map(|i| i + 100).collect::<Vec<_>>())),
                Arc::new(StringArray::from(vec!["new"; n])),
                Arc::new(Int64Array::from(vec![5; n])),
                Arc::new(StringArray::from(vec![country; n])),
                Arc::new(Int32Array::from(vec![None::<i32>; n])),
                Arc::new(StringArray::from(ids.iter().map(|i| format!("[{i},{})", i + 1)).collect::<Vec<_>>())),
            ],
        )
        .unwrap()
    };
    let load = place.load("we\"ird; t", EXCHANGE, &staged);
    let receipt = load.run(&[vec![batch(vec![1, 2], "de")], vec![batch(vec![3], "fr")]]).await.unwrap();
    assert_eq!(receipt.notes, Vec::<String>::new());
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (3, 2));
    assert_ne!(place.rows(r#"SELECT '$S."we""ird; t"'::regclass::oid"#).await, oid, "nothing was swapped");
    assert_eq!(catalog(&place).await, before.1);
    assert_eq!(dump(url, "w_keep"), before.0);
    // Both sequences go on.
    place.run(r#"INSERT INTO $S."we""ird; t" (name, country) VALUES ('after', 'de')"#).await;
    assert_eq!(place.rows(r#"SELECT id, serial_no FROM $S."we""ird; t" WHERE name = 'after'"#).await, ["13|3"]);

    // Rows that break a constraint leave the old table alone.
    let error = place.load("we\"ird; t", EXCHANGE, &staged).run(&[vec![batch(vec![1], "xx")]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality, "{error:?}");
    assert!(error.message().contains("foreign key"), "{error}");
    assert_eq!((dump(url, "w_keep"), catalog(&place).await), before);
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
    place.run("DROP PUBLICATION w_keep_pub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_turn_an_exchange_into_truncate_and_insert() {
    let place = Place::new("w_depend").await;
    let dependents = [
        ("view", "CREATE VIEW $S.v AS SELECT * FROM $S.t", "view"),
        ("matview", "CREATE MATERIALIZED VIEW $S.v AS SELECT id FROM $S.t", "materialized view"),
        ("fk", "CREATE TABLE $S.v (t integer REFERENCES $S.t (id))", "foreign key"),
        ("child", "CREATE TABLE $S.v () INHERITS ($S.t)", "inheritance"),
        ("rowtype", "CREATE TABLE $S.v (x $S.t)", "depends on it"),
        ("function", "CREATE FUNCTION $S.f(x $S.t) RETURNS int LANGUAGE sql AS 'SELECT 1'", "depends on it"),
        ("default", "CREATE TABLE $S.v (x integer DEFAULT nextval('$S.t_no_seq'))", "depends on it"),
        ("rule", "CREATE RULE r AS ON DELETE TO $S.t DO ALSO NOTIFY x", "rule"),
    ];
    for (what, sql, reason) in dependents {
        place
            .run(
                "DROP SCHEMA $S CASCADE; CREATE SCHEMA $S; CREATE TABLE $S.t (id integer PRIMARY KEY, name text, \
                  amount bigint, no integer GENERATED ALWAYS AS IDENTITY); INSERT INTO $S.t (id) VALUES (7)",
            )
            .await;
        place.run(sql).await;
        let oid = place.rows("SELECT '$S.t'::regclass::oid").await;
        let receipt = place.load("t", EXCHANGE, &people()).run(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        assert!(receipt.notes[0].contains("fell back to truncate_insert"), "{what}: {:?}", receipt.notes);
        assert!(receipt.notes[0].contains(reason), "{what}: {:?}", receipt.notes);
        assert_eq!(place.rows("SELECT '$S.t'::regclass::oid").await, oid, "{what}");
        assert_eq!(place.rows("SELECT id, name, amount FROM ONLY $S.t").await, ["1|a|10"], "{what}");
    }
    place
        .run("DROP SCHEMA $S CASCADE; CREATE SCHEMA $S; CREATE TABLE $S.t (id integer, name text, amount bigint)")
        .await;
    // A view that is made while the load runs is seen under the lock.
    let mut load = place.load("t", EXCHANGE, &people());
    let lease = load.lease(Duration::from_secs(60)).await.unwrap();
    let staged = load.stage(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
    place.run("CREATE VIEW $S.v AS SELECT * FROM $S.t").await;
    let receipt = load.commit(&staged, &lease).await.unwrap();
    assert!(receipt.notes[0].contains("view"), "{:?}", receipt.notes);
    assert_eq!(place.rows("SELECT * FROM $S.v").await, ["1|a|10"]);
    load.sink.discard(&load.spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_altered_during_the_load_is_left_alone() {
    let place = Place::new("w_altered").await;
    for (mode, alter) in [
        (EXCHANGE, "CREATE INDEX late ON $S.t (name)"),
        (EXCHANGE, "ALTER TABLE $S.t ADD extra integer"),
        (WriteMode::Append, "ALTER TABLE $S.t ALTER amount TYPE integer"),
    ] {
        place.run("DROP TABLE IF EXISTS $S.t; CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
        let mut load = place.load("t", mode.clone(), &people());
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let staged = load.stage(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        place.run(alter).await;
        // An index made before the swap's own build is simply built too.
        match load.commit(&staged, &lease).await {
            Ok(_) => assert_eq!(
                place.rows("SELECT count(*) FROM pg_indexes WHERE schemaname = '$S' AND indexname = 'late'").await,
                ["1"]
            ),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_reader_never_sees_a_part() {
    let place = Place::new("w_readers").await;
    place.run("CREATE TABLE $S.t (id integer PRIMARY KEY, name text, amount bigint)").await;
    let rows = |generation: i64| {
        let rows: Vec<_> = (0..2000).map(|i| (i, "x", generation)).collect();
        people_rows(&rows)
    };
    place.load("t", EXCHANGE, &people()).run(&[vec![rows(0)]]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let client = connect().await;
            let (mut polls, mut seen) = (0, std::collections::BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let sql = "SELECT count(*), min(amount), max(amount) FROM w_readers.t";
                // A prepared statement of a table that was swapped away is planned again by the server.
                let row = match client.query_one(sql, &[]).await {
                    Ok(row) => row,
                    // A name looked up an instant before the swap may lead to a table that is gone: no part is seen.
                    Err(error) if error.code().is_some_and(|c| c.code() == "XX000") => continue,
                    Err(error) => panic!("{error:?}"),
                };
                let (count, min, max): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
                assert_eq!((count, min), (2000, max), "a part was visible");
                seen.insert(min);
                polls += 1;
            }
            (polls, seen)
        })
    };
    for generation in 1..=9 {
        let mode = [EXCHANGE, TRUNCATE, changes(Operation::Upsert)][generation as usize % 3].clone();
        let batch = rows(generation);
        let halves = [vec![batch.slice(0, 1000)], vec![batch.slice(1000, 1000)]];
        place.load("t", mode, &people()).run(&halves).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (polls, seen) = reader.await.unwrap();
    assert!(polls > 20 && seen.len() > 2, "{polls} polls saw {seen:?}");
}
