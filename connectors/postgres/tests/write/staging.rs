//! Staging: attempts, losses, names and the types of created tables.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_staged_again_replaces_its_earlier_attempt() {
    let place = Place::new("w_retry").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    for (mode, partitions) in [(EXCHANGE, 2), (WriteMode::Append, 2), (EXCHANGE, 1)] {
        place.run("TRUNCATE $S.t").await;
        let mut load = place.load("t", mode, &people());
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let first: Vec<_> = (0..partitions).map(|p| vec![people_rows(&[(p, "first", 1)])]).collect();
        let mut staged = load.stage(&first).await.unwrap();
        // Preparing again finds what is there.
        load.sink.prepare(&load.spec).await.unwrap();
        let again = [people_rows(&[(0, "again", 2), (9, "again", 2)])];
        staged[0] = load.sink.stage(&load.spec, 0, stream(&people(), &again)).await.unwrap();
        assert_eq!(staged[0].rows, 2);
        // An attempt that fails leaves nothing, not even of what it replaced.
        let broken = stream(&people(), &[people_rows(&[(5, "broken\0", 3)])]);
        load.sink.stage(&load.spec, 0, broken).await.unwrap_err();
        let duplicates = load.sink.duplicate_keys(&load.spec, &staged, &["name".into()]).await.unwrap();
        assert_eq!(duplicates, 1);
        load.commit(&staged, &lease).await.unwrap();
        let mut want = vec!["0|again|2".to_owned()];
        want.extend((1..partitions).map(|p| format!("{p}|first|1")));
        want.push("9|again|2".to_owned());
        assert_eq!(all(&place, "t").await, want);
        load.sink.discard(&load.spec).await.unwrap();
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_that_was_lost_is_noticed() {
    let place = Place::new("w_lost_staging").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint); INSERT INTO $S.t VALUES (1,'a',1)").await;
    let mut load = place.load("t", TRUNCATE, &people());
    let lease = load.lease(Duration::from_secs(60)).await.unwrap();
    let staged = load.stage(&[vec![people_rows(&[(2, "b", 2)])]]).await.unwrap();
    // What a crash of the server does to unlogged tables.
    let tables = place.rows("SELECT relname FROM pg_class WHERE relname ~ '^__dpone__[sp]_' AND relkind = 'r' AND relpersistence = 'u' AND relnamespace = '$S'::regnamespace").await;
    assert_eq!(tables.len(), 2, "{tables:?}");
    for table in &tables {
        place.run(&format!("TRUNCATE $S.\"{table}\"")).await;
    }
    let error = load.commit(&staged, &lease).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
    // So is a single partition.
    let mut partial = place.load("t", TRUNCATE, &people());
    let staged = partial.stage(&[vec![people_rows(&[(2, "b", 2)])], vec![people_rows(&[(3, "c", 3)])]]).await.unwrap();
    let ledger = place
        .rows("SELECT relname FROM pg_class WHERE relname ~ '^__dpone__p_' AND relkind = 'r' AND relnamespace = '$S'::regnamespace")
        .await;
    assert_eq!(ledger.len(), 1, "the area of the load before was cleared");
    place.run(&format!("DELETE FROM $S.\"{}\" WHERE partition = 1", ledger[0])).await;
    let error = partial.commit(&staged, &lease).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
    // The next run of the pipeline clears what this one leaves.
    load.store().release(&lease).await.unwrap();
    place.load("t", TRUNCATE, &people()).run(&[vec![people_rows(&[(3, "c", 3)])]]).await.unwrap();
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_kind_are_only_names() {
    let long = "ü".repeat(31) + "x";
    let place = Place::new("w \"odd\"; DROP SCHEMA public").await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id; --", DataType::Int32, false),
        Field::new("we\"ird; drop table", DataType::Utf8, true),
        Field::new(&long, DataType::Utf8, true),
        Field::new("$1", DataType::Utf8, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Int32Array::from(vec![1])),
            Arc::new(StringArray::from(vec!["a"])),
            Arc::new(StringArray::from(vec!["b"])),
            Arc::new(StringArray::from(vec!["c"])),
        ],
    )
    .unwrap();
    let modes = [
        EXCHANGE,
        EXCHANGE,
        TRUNCATE,
        WriteMode::Changes { key: vec!["id; --".into()], operation: Operation::Upsert },
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["we\"ird; drop table".into()] } },
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: "\"id; --\" = 1".into() } },
    ];
    for (i, mode) in modes.into_iter().enumerate() {
        let table = format!("{}{}", "'; DROP TABLE \\", "t".repeat(63 - 15));
        assert_eq!(table.len(), 63);
        let load = place.load(&table, mode, &staged).key(&["id; --"]);
        load.run(&[vec![batch.clone()]]).await.unwrap_or_else(|e| panic!("{i}: {e:?}"));
        let sql = format!("SELECT * FROM \"w \"\"odd\"\"; DROP SCHEMA public\".\"{table}\"");
        assert_eq!(place.rows(&sql).await, ["1|a|b|c"]);
    }
    let too_long: SchemaRef = Arc::new(Schema::new(vec![Field::new("ü".repeat(32), DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&too_long), vec![Arc::new(StringArray::from(vec!["a"]))]).unwrap();
    let error = place.load("t", WriteMode::Append, &too_long).run(&[vec![batch]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    place.run("DROP SCHEMA \"w \"\"odd\"\"; DROP SCHEMA public\" CASCADE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_table_has_the_types_of_its_source() {
    let place = Place::new("w_created").await;
    let field = |name: &str, data_type, native| with_native(Field::new(name, data_type, true), "postgres", native);
    let mut mood = field("mood", DataType::Utf8, "w_created_types.mood");
    let mut metadata = mood.metadata().clone();
    metadata.insert("dpone:labels".into(), "[\"sad\",\"it's ok\"]".into());
    mood = mood.with_metadata(metadata);
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        field("price", DataType::Decimal128(10, 2), "numeric(10,2)"),
        field("address", DataType::Utf8, "inet"),
        mood,
        field("shape", DataType::Utf8, "elsewhere.shape"),
        with_extension(Field::new("u", DataType::FixedSizeBinary(16), true), EXTENSION_UUID),
        Field::new("gap", DataType::Interval(IntervalUnit::MonthDayNano), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]));
    place.run("DROP SCHEMA IF EXISTS w_created_types CASCADE").await;
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Decimal128Array::from(vec![1234]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(StringArray::from(vec!["10.0.0.1"])),
            Arc::new(StringArray::from(vec!["it's ok"])),
            Arc::new(StringArray::from(vec!["(1,2)"])),
            Arc::new(FixedSizeBinaryArray::try_from_iter(vec![vec![1u8; 16]].into_iter()).unwrap()),
            Arc::new(IntervalMonthDayNanoArray::from(vec![arrow::datatypes::IntervalMonthDayNano::new(1, 0, 0)])),
            Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")),
        ],
    )
    .unwrap();
    let receipt = place.load("t", EXCHANGE, &staged).run(&[vec![batch]]).await.unwrap();
    assert!(receipt.notes.iter().any(|n| n.contains("w_created_types.mood")), "{:?}", receipt.notes);
    assert!(receipt.notes.iter().any(|n| n.contains("stored as text")), "{:?}", receipt.notes);
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ';' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = '$S.t'::regclass AND attnum > 0";
    assert_eq!(
        place.rows(types).await,
        ["numeric(10,2);inet;w_created_types.mood;text;uuid;interval;timestamp with time zone"]
    );
    assert_eq!(place.rows("SELECT price, address, mood, shape FROM $S.t").await, ["12.34|10.0.0.1|it's ok|(1,2)"]);
    place.run("DROP SCHEMA w_created_types CASCADE").await;
}
