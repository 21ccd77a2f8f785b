//! Write modes: what each does to a target that is there, and to one that is not.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_creates_a_missing_target() {
    let place = Place::new("w_create").await;
    let rows = people_rows(&[(1, "a", 10), (2, "b", 20)]);
    let modes = [
        ("append", WriteMode::Append),
        ("exchange", EXCHANGE),
        ("truncate", TRUNCATE),
        ("scope", scope("amount < 100")),
        ("parts", WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["amount".into()] } }),
        ("changes", changes(Operation::Upsert)),
    ];
    for (table, mode) in modes {
        let load = place.load(table, mode, &people()).key(&["id"]);
        let receipt = load.run(&[vec![rows.clone()], vec![people_rows(&[(3, "c", 30)])]]).await.unwrap();
        assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (3, 0), "{table}");
        assert_eq!(all(&place, table).await, ["1|a|10", "2|b|20", "3|c|30"], "{table}");
        let key = format!(
            "SELECT conname, contype FROM pg_constraint WHERE conrelid = '$S.{table}'::regclass AND contype = 'p'"
        );
        assert_eq!(place.rows(&key).await, [format!("{table}_pkey|p")]);
        assert_eq!(
            place.rows(&format!("SELECT relpersistence FROM pg_class WHERE oid = '$S.{table}'::regclass")).await,
            ["p"]
        );
    }
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_does_what_it_says_to_a_target_that_is_there() {
    let place = Place::new("w_modes").await;
    let old = "(1,'a',10),(2,'b',20),(3,'c',30)";
    let new = people_rows(&[(2, "B", 20), (4, "d", 30)]);
    let parts = |columns: &[&str]| WriteMode::OverwriteScope {
        scope: ScopeFilter::Partitions { columns: columns.iter().map(|c| (*c).to_owned()).collect() },
    };
    // Table, mode, rows after, inserted, updated, deleted, unchanged.
    let cases: Vec<(&str, WriteMode, Vec<&str>, [u64; 4])> = vec![
        ("append", WriteMode::Append, vec!["1|a|10", "2|B|20", "2|b|20", "3|c|30", "4|d|30"], [2, 0, 0, 0]),
        ("exchange", EXCHANGE, vec!["2|B|20", "4|d|30"], [2, 0, 3, 0]),
        ("truncate", TRUNCATE, vec!["2|B|20", "4|d|30"], [2, 0, 3, 0]),
        ("scope", scope("amount >= 20 AND amount < 40"), vec!["1|a|10", "2|B|20", "4|d|30"], [2, 0, 2, 0]),
        ("parts", parts(&["amount"]), vec!["1|a|10", "2|B|20", "4|d|30"], [2, 0, 2, 0]),
        ("changes", changes(Operation::Upsert), vec!["1|a|10", "2|B|20", "3|c|30", "4|d|30"], [1, 1, 0, 0]),
    ];
    for (table, mode, after, [inserted, updated, deleted, unchanged]) in cases {
        place
            .run(&format!(
                "CREATE TABLE $S.{table} (id integer, name text COLLATE \"C\", amount bigint, extra text DEFAULT 'x')"
            ))
            .await;
        place.run(&format!("INSERT INTO $S.{table} VALUES {old}")).await;
        let receipt = place.load(table, mode, &people()).run(&[vec![new.clone()]]).await.unwrap();
        assert_eq!(all(&place, table).await, after, "{table}");
        let rows = &receipt.rows;
        assert_eq!(
            [rows.inserted, rows.updated, rows.deleted, rows.unchanged],
            [inserted, updated, deleted, unchanged],
            "{table}"
        );
        assert_eq!(place.rows(&format!("SELECT DISTINCT extra FROM $S.{table}")).await, ["x"], "{table}");
        // State and receipt came with the rows.
        let load = place.load(table, WriteMode::Append, &people());
        let state = load.store().get(table).await.unwrap().unwrap();
        assert_eq!(state.load_id, receipt.load_id);
        assert_eq!(load.store().receipt(table, &receipt.run_id).await.unwrap().unwrap(), receipt);
    }
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_with_nulls_replace_each_other() {
    let place = Place::new("w_null_parts").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    place.run("INSERT INTO $S.t VALUES (1,'a',NULL),(2,'b',1),(3,'c',2)").await;
    let batch = RecordBatch::try_new(
        people(),
        vec![
            Arc::new(Int32Array::from(vec![9, 8])),
            Arc::new(StringArray::from(vec!["x", "y"])),
            Arc::new(Int64Array::from(vec![None, Some(2)])),
        ],
    )
    .unwrap();
    let mode = WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["amount".into()] } };
    let receipt = place.load("t", mode, &people()).run(&[vec![batch]]).await.unwrap();
    assert_eq!((receipt.rows.deleted, receipt.rows.inserted), (2, 2));
    assert_eq!(all(&place, "t").await, ["2|b|1", "8|y|2", "9|x|NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_outside_the_scope_stop_the_load() {
    let place = Place::new("w_outside").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint); INSERT INTO $S.t VALUES (1,'a',10)").await;
    let rows = people_rows(&[(2, "b", 5), (3, "c", 500)]);
    let error = place.load("t", scope("amount < 100"), &people()).run(&[vec![rows]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality);
    assert!(error.message().starts_with("1 staged rows lie outside"), "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_rails_stop_a_load_before_anything_is_changed() {
    let place = Place::new("w_guards").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    place.run("INSERT INTO $S.t SELECT i, 'x', i FROM generate_series(1, 10) i").await;
    let rows = people_rows(&[(1, "x", 1)]);
    for mode in [EXCHANGE, TRUNCATE, scope("amount > 0")] {
        let mut load = place.load("t", mode.clone(), &people());
        load.max_delete_rows = Some(8);
        let error = load.run(&[vec![rows.clone()]]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataQuality, "{mode:?} {error}");
        let mut load = place.load("t", mode.clone(), &people());
        load.max_delete_ratio = Some(0.5);
        let error = load.run(&[vec![rows.clone()]]).await.unwrap_err();
        assert!(error.message().contains("9 of 10 rows"), "{mode:?} {error}");
        assert_eq!(place.rows("SELECT count(*) FROM $S.t").await, ["10"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_generated_and_default_columns_are_respected() {
    let place = Place::new("w_identity").await;
    let generated = if place
        .client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get::<_, i32>(0)
        >= 120_000
    {
        ", twice bigint GENERATED ALWAYS AS (amount * 2) STORED"
    } else {
        ""
    };
    for (table, mode) in [("a", WriteMode::Append), ("x", EXCHANGE), ("c", changes(Operation::Upsert))] {
        place
            .run(&format!(
                "CREATE TABLE $S.{table} (id integer GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5) PRIMARY KEY, \
                 name text NOT NULL, amount bigint{generated}, made date DEFAULT '2020-02-02'); \
                 INSERT INTO $S.{table} (name) VALUES ('old')"
            ))
            .await;
        place.load(table, mode, &people()).run(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        assert_eq!(
            place.rows(&format!("SELECT id, name, made FROM $S.{table} WHERE id = 1")).await,
            ["1|a|2020-02-02"]
        );
        if !generated.is_empty() {
            assert_eq!(place.rows(&format!("SELECT twice FROM $S.{table} WHERE id = 1")).await, ["20"]);
        }
        // The sequence goes on where it was.
        assert_eq!(place.rows(&format!("INSERT INTO $S.{table} (name) VALUES ('next') RETURNING id")).await, ["105"]);
    }
}
