//! `Changes`: what it does to rows, and which statements it becomes.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn changes_touch_no_unchanged_row_and_delete_by_key() {
    let place = Place::new("w_changes").await;
    place
        .run(
            "CREATE TABLE $S.t (id integer PRIMARY KEY, n numeric, f double precision, j json, b bytea); \
              INSERT INTO $S.t VALUES (1, 1.0, 0, '{\"a\":1}', '\\x00'), (2, 1.0, 0, '{\"a\":1}', NULL), \
                                      (3, 1.0, 0, '{\"a\":1}', NULL), (4, 1.0, 0, NULL, NULL), (5, 1.0, 0, NULL, NULL)",
        )
        .await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("n", DataType::Utf8, true),
        Field::new("f", DataType::Float64, true),
        Field::new("j", DataType::Utf8, true),
        Field::new("b", DataType::Binary, true),
        Field::new(OPERATION_COLUMN, DataType::Int8, false),
    ]));
    // 1 is the same; 2 gets another scale; 3 the other zero; 4 goes; 5 gets another json text; 6 is new; 7 was never there.
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5, 6, 7])),
            Arc::new(StringArray::from(vec!["1.0", "1.00", "1.0", "0", "1.0", "6", "0"])),
            Arc::new(Float64Array::from(vec![0.0, 0.0, -0.0, 0.0, 0.0, 6.0, 0.0])),
            Arc::new(StringArray::from(vec![
                Some("{\"a\":1}"),
                Some("{\"a\":1}"),
                Some("{\"a\":1}"),
                None,
                Some("{ }"),
                None,
                None,
            ])),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0".as_slice()), None, None, None, None, None, None])),
            Arc::new(Int8Array::from(vec![
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                DELETE,
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                DELETE,
            ])),
        ],
    )
    .unwrap();
    let before = place.rows("SELECT xmin, ctid FROM $S.t WHERE id = 1").await;
    let load = place.load("t", changes(Operation::Column { patch: vec![] }), &staged);
    let receipt = load.run(&[vec![batch.clone()]]).await.unwrap();
    let rows = &receipt.rows;
    assert_eq!([rows.inserted, rows.updated, rows.deleted, rows.unchanged], [1, 3, 1, 2]);
    assert_eq!(place.rows("SELECT xmin, ctid FROM $S.t WHERE id = 1").await, before);
    assert_eq!(
        place.rows("SELECT id, n, f, j FROM $S.t ORDER BY id").await,
        ["1|1.0|0|{\"a\":1}", "2|1.00|0|{\"a\":1}", "3|1.0|-0|{\"a\":1}", "5|1.0|0|{ }", "6|6|6|NULL"]
    );
    // The same changes again change nothing at all.
    let before = place.rows("SELECT id, xmin, ctid FROM $S.t ORDER BY id").await;
    let receipt = place
        .load("t", changes(Operation::Column { patch: vec![] }), &staged)
        .run(&[vec![batch.clone()]])
        .await
        .unwrap();
    let rows = &receipt.rows;
    assert_eq!([rows.inserted, rows.updated, rows.deleted, rows.unchanged], [0, 0, 0, 7]);
    assert_eq!(place.rows("SELECT id, xmin, ctid FROM $S.t ORDER BY id").await, before);
    // Into a table that is not there, deletions are nothing.
    let receipt = place
        .load("fresh", changes(Operation::Column { patch: vec![] }), &staged)
        .key(&["id"])
        .run(&[vec![batch]])
        .await
        .unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.unchanged), (5, 2));
    assert_eq!(place.rows("SELECT string_agg(id::text, ',' ORDER BY id) FROM $S.fresh").await, ["1,2,3,5,6"]);
    assert_eq!(
        place.rows("SELECT count(*) FROM pg_attribute WHERE attrelid = '$S.fresh'::regclass AND attnum > 0").await,
        ["5"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_later_than_all_of_history_are_only_inserted_and_others_still_meet_theirs() {
    let place = Place::new("w_versions").await;
    // Without an index, so that nothing but the load keeps a version from being there twice.
    place.run("CREATE TABLE $S.t (id integer, since timestamptz, v text, current boolean)").await;
    place.run("INSERT INTO $S.t SELECT i, '1970-01-01 00:00:01Z', 'old', true FROM generate_series(1, 1500) i").await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("since", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("v", DataType::Utf8, true),
        Field::new("current", DataType::Boolean, true),
        Field::new(OPERATION_COLUMN, DataType::Int8, false),
    ]));
    // Each row is closed, and opened again at the given second; the last is opened without an instant, where asked for.
    let batch = |second: i64, null: bool| {
        let opened = (0..1500).map(|i| (!(null && i == 1499)).then_some(second * 1_000_000));
        let since = std::iter::repeat_n(Some(1_000_000), 1500).chain(opened);
        RecordBatch::try_new(
            Arc::clone(&staged),
            vec![
                Arc::new(Int32Array::from_iter_values((1..=1500).chain(1..=1500))),
                Arc::new(TimestampMicrosecondArray::from_iter(since).with_timezone("UTC")),
                Arc::new(StringArray::from_iter_values((0..3000).map(|i| if i < 1500 { "" } else { "new" }))),
                Arc::new(BooleanArray::from_iter((0..3000).map(|i| Some(i >= 1500)))),
                Arc::new(Int8Array::from_iter_values(
                    (0..3000).map(|i| if i < 1500 { PATCH } else { INSERT_OR_UPDATE }),
                )),
            ],
        )
        .unwrap()
    };
    let mode = || WriteMode::Changes {
        key: vec!["id".into(), "since".into()],
        operation: Operation::Column { patch: vec!["current".into()] },
    };
    let counts = "SELECT v, current, count(*), count(DISTINCT id) FROM $S.t GROUP BY 1, 2 ORDER BY 1, 2";
    let receipt = place.load("t", mode(), &staged).run(&[vec![batch(2, false)]]).await.unwrap();
    assert_eq!([receipt.rows.inserted, receipt.rows.updated], [1500, 1500]);
    assert_eq!(place.rows(counts).await, ["new|t|1500|1500", "old|f|1500|1500"]);
    // The same once more: versions of that instant are there, so nothing is new.
    let receipt = place.load("t", mode(), &staged).run(&[vec![batch(2, false)]]).await.unwrap();
    assert_eq!([receipt.rows.inserted, receipt.rows.updated, receipt.rows.unchanged], [0, 0, 3000]);
    // One without an instant says nothing about being later, and is found again.
    for inserted in [1500, 0] {
        let receipt = place.load("t", mode(), &staged).run(&[vec![batch(3, true)]]).await.unwrap();
        assert_eq!([receipt.rows.inserted, receipt.rows.updated], [inserted, 0]);
    }
    assert_eq!(place.rows(counts).await, ["new|t|3000|1500", "old|f|1500|1500"]);
}

/// Notes what fires, in its order.
const WATCHED: &str = "
    CREATE TABLE $S.fired (n serial, what text);
    CREATE FUNCTION $S.note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
      INSERT INTO $S.fired (what) VALUES (TG_OP || ' ' || TG_LEVEL);
      RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $f$;
    CREATE TRIGGER s BEFORE INSERT OR UPDATE OR DELETE ON $S.t FOR EACH STATEMENT EXECUTE FUNCTION $S.note();
    CREATE TRIGGER r BEFORE INSERT OR UPDATE OR DELETE ON $S.t FOR EACH ROW EXECUTE FUNCTION $S.note();
    TRUNCATE $S.fired RESTART IDENTITY";

/// 1 goes, 2 gets another amount, and 3, which is new, takes the name that 1 had.
fn staged() -> (SchemaRef, RecordBatch) {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
        Field::new(OPERATION_COLUMN, DataType::Int8, false),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![3, 2, 1])),
        Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
        Arc::new(Int64Array::from(vec![Some(30), Some(6), None])),
        Arc::new(Int8Array::from(vec![INSERT_OR_UPDATE, INSERT_OR_UPDATE, DELETE])),
    ];
    (Arc::clone(&schema), RecordBatch::try_new(schema, columns).unwrap())
}

/// The rows afterwards are the same whatever the table is; this is what fired.
async fn fired(url: &str, name: &str, table: &str) -> Vec<String> {
    let place = Place::at(url, name).await;
    place.run(&format!("{table}; INSERT INTO $S.t VALUES (1, 'a', 10), (2, 'b', 5); {WATCHED}")).await;
    let (schema, batch) = staged();
    let mode = WriteMode::Changes { key: vec!["id".into()], operation: Operation::Column { patch: vec![] } };
    let receipt = place.load("t", mode, &schema).run(&[vec![batch]]).await.unwrap();
    let rows = &receipt.rows;
    assert_eq!([rows.inserted, rows.updated, rows.deleted, rows.unchanged], [1, 1, 1, 0], "{name}");
    assert_eq!(place.rows("SELECT id, name, amount FROM $S.t ORDER BY id").await, ["2|b|6", "3|a|30"], "{name}");
    place.rows("SELECT what FROM $S.fired ORDER BY n").await
}

const TABLE: &str = "CREATE TABLE $S.t (id integer PRIMARY KEY, name text, amount bigint)";

/// Triggers of statements fire before any row is touched where one statement does it all.
const AT_ONCE: [&str; 3] = ["INSERT STATEMENT", "UPDATE STATEMENT", "DELETE STATEMENT"];
const IN_ORDER: [&str; 6] =
    ["DELETE STATEMENT", "DELETE ROW", "UPDATE STATEMENT", "UPDATE ROW", "INSERT STATEMENT", "INSERT ROW"];

/// The server, and those of versions that write differently.
fn servers() -> Vec<String> {
    let others = ["DPONE_TEST_POSTGRES_11_URL", "DPONE_TEST_POSTGRES_16_URL"];
    std::iter::once(url()).chain(others.iter().filter_map(|name| std::env::var(name).ok())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_statement_does_it_where_order_cannot_matter() {
    let parts = "CREATE TABLE $S.t (id integer PRIMARY KEY, name text, amount bigint) PARTITION BY RANGE (id); \
                 CREATE TABLE $S.t1 PARTITION OF $S.t FOR VALUES FROM (0) TO (3); \
                 CREATE TABLE $S.t2 PARTITION OF $S.t FOR VALUES FROM (3) TO (9)";
    let tables = [
        ("c_key", TABLE.to_owned()),
        ("c_no_index", TABLE.replace(" PRIMARY KEY", "")),
        ("c_wider", format!("{TABLE}; CREATE UNIQUE INDEX ON $S.t (name, id)")),
        ("c_plain", format!("{TABLE}; CREATE INDEX ON $S.t (name)")),
        ("c_parts", parts.to_owned()),
    ];
    for url in servers() {
        let place = Place::at(&url, "c_version").await;
        let version: u32 = place.rows("SHOW server_version_num").await[0].parse().unwrap();
        for (name, table) in &tables {
            // Older servers do not say what a MERGE did. Row triggers of partitioned tables came with version 13.
            if version >= 170_000 {
                assert_eq!(fired(&url, name, table).await[..3], AT_ONCE, "{name}");
            } else if *name != "c_parts" || version >= 130_000 {
                assert_eq!(fired(&url, name, table).await, IN_ORDER, "{name} on {version}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_is_freed_before_it_is_taken() {
    let tables = [
        ("c_unique", format!("{TABLE}; CREATE UNIQUE INDEX ON $S.t (name)")),
        ("c_included", format!("{TABLE}; CREATE UNIQUE INDEX ON $S.t (name) INCLUDE (id)")),
        ("c_expression", format!("{TABLE}; CREATE UNIQUE INDEX ON $S.t (lower(name))")),
        ("c_partial", format!("{TABLE}; CREATE UNIQUE INDEX ON $S.t (name) WHERE id > 0")),
        ("c_exclusion", format!("{TABLE}; ALTER TABLE $S.t ADD EXCLUDE USING btree (name WITH =)")),
        // MERGE is refused for these.
        ("c_rule", format!("{TABLE}; CREATE RULE r AS ON DELETE TO $S.t WHERE OLD.id < 0 DO INSTEAD NOTHING")),
    ];
    for url in servers() {
        for (name, table) in &tables {
            assert_eq!(fired(&url, name, table).await, IN_ORDER, "{name}");
        }
    }
}
