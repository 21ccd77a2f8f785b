//! State, leases and lost answers.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn reading_state_that_is_not_there_finds_and_creates_nothing() {
    let place = Place::new("w_state").await;
    let load = place.load("t", WriteMode::Append, &people());
    let store = load.store();
    assert!(store.get("t").await.unwrap().is_none());
    assert!(store.receipt("t", "r").await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty());
    assert!(!store.reset("t").await.unwrap().had_state);
    assert!(load.sink.describe(&load.spec.target).await.unwrap().is_none());
    assert_eq!(place.rows("SELECT count(*) FROM pg_class WHERE relnamespace = '$S'::regnamespace").await, ["0"]);
    place.run("DROP SCHEMA $S").await;
    assert!(store.get("t").await.unwrap().is_none());
    // Many runs at once create the tables once.
    let stores: Vec<Arc<dyn StateStore>> = (0..8).map(|_| load.store()).collect();
    let request = |i: usize| dpone_engine::state::LeaseRequest {
        pipeline: format!("p{i}"),
        run_id: "r".into(),
        holder: "h".into(),
        ttl: Duration::from_secs(5),
    };
    let requests: Vec<_> = (0..8).map(request).collect();
    let taken = futures::future::join_all(stores.iter().zip(&requests).map(|(s, r)| s.acquire(r))).await;
    assert!(taken.iter().all(|lease| lease.as_ref().is_ok_and(|l| l.token == 1)), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_held_by_one_and_taken_over_when_it_ends() {
    let place = Place::new("w_lease").await;
    let (first, second) =
        (place.load("t", WriteMode::Append, &people()), place.load("t", WriteMode::Append, &people()));
    let held = first.lease(Duration::from_secs(1)).await.unwrap();
    let error = second.lease(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("the test") && error.message().contains(&first.spec.run_id), "{error}");
    first.store().renew(&held).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let taken = second.lease(Duration::from_secs(60)).await.unwrap();
    assert!(taken.token > held.token);
    assert_eq!(first.store().renew(&held).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Giving back what is no longer ours changes nothing.
    first.store().release(&held).await.unwrap();
    assert_eq!(first.lease(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    second.store().release(&taken).await.unwrap();
    assert!(first.lease(Duration::from_secs(1)).await.unwrap().token > taken.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_its_lease_cannot_commit() {
    let place = Place::new("w_fence").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let mut slow = place.load("t", EXCHANGE, &people());
    let lease = slow.lease(Duration::from_millis(100)).await.unwrap();
    let staged = slow.stage(&[vec![people_rows(&[(1, "slow", 1)])]]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    place.load("t", TRUNCATE, &people()).run(&[vec![people_rows(&[(2, "fast", 2)])]]).await.unwrap();
    let error = slow.commit(&staged, &lease).await.unwrap_err();
    // Its staging was cleared by the run that took over, or its token was refused: either way nothing happened.
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transient), "{error}");
    assert_eq!(all(&place, "t").await, ["2|fast|2"]);
    // With its staging still there, the token alone stops it.
    let mut slow = place.load("t", EXCHANGE, &people());
    let lease = slow.lease(Duration::from_secs(60)).await.unwrap();
    let staged = slow.stage(&[vec![people_rows(&[(1, "slow", 1)])]]).await.unwrap();
    let stale = Lease { token: lease.token - 1, ..lease };
    let error = slow.commit(&staged, &stale).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(all(&place, "t").await, ["2|fast|2"]);
    slow.sink.discard(&slow.spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_run_is_committed_once() {
    let place = Place::new("w_once").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let first = place.load("t", WriteMode::Append, &people());
    let run_id = first.spec.run_id.clone();
    first.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap();
    let mut again = place.load("t", WriteMode::Append, &people());
    again.spec.run_id = run_id;
    let error = again.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
}

/// Passes bytes through until a COMMIT comes by while it is armed; then the connection is cut, with the COMMIT
/// delivered or not.
async fn cutting_proxy(armed: Arc<AtomicBool>, deliver: bool) -> String {
    let config: tokio_postgres::Config = url().parse().unwrap();
    let host = match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(host) => host.clone(),
        other => panic!("the tests need a server on TCP, and {other:?} is not"),
    };
    let server = (host, config.get_ports().first().copied().unwrap_or(5432));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = tokio::net::TcpStream::connect(&server).await.unwrap();
            let armed = Arc::clone(&armed);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = upstream.into_split();
                let back = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    let commit = buffer[..n].windows(7).any(|w| w == b"COMMIT\0");
                    if commit && armed.swap(false, Ordering::SeqCst) {
                        back.abort();
                        if deliver {
                            to_server.write_all(&buffer[..n]).await.unwrap();
                        }
                        // Both sockets close; the client has seen no answer.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        return;
                    }
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                back.abort();
            });
        }
    });
    let mut through = format!("postgres://{}", config.get_user().unwrap());
    if let Some(password) = config.get_password() {
        through.push(':');
        through.push_str(std::str::from_utf8(password).unwrap());
    }
    format!("{through}@127.0.0.1:{port}/{}?sslmode=disable", config.get_dbname().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_is_looked_up() {
    let place = Place::new("w_lost_ack").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    for deliver in [true, false] {
        place.run("TRUNCATE $S.t").await;
        let armed = Arc::new(AtomicBool::new(false));
        let mut load = place.load("t", WriteMode::Append, &people());
        load.sink = sink_at(&cutting_proxy(Arc::clone(&armed), deliver).await);
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let staged = load.stage(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap();
        armed.store(true, Ordering::SeqCst);
        let result = load.commit(&staged, &lease).await;
        assert!(!armed.load(Ordering::SeqCst), "the connection was not cut");
        if deliver {
            assert_eq!(result.unwrap().rows.inserted, 1);
            assert_eq!(all(&place, "t").await, ["1|a|1"]);
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Transient);
            assert_eq!(all(&place, "t").await, Vec::<String>::new());
            // Nothing happened, so the same commit may be made again.
            load.commit(&staged, &lease).await.unwrap();
            assert_eq!(all(&place, "t").await, ["1|a|1"]);
        }
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_others_hold_is_waited_for_no_longer_than_configured() {
    let place = Place::new("w_lock").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let mut load = place.load("t", TRUNCATE, &people());
    let separator = if url().contains('?') { '&' } else { '?' };
    load.sink = sink_at(&format!("{}{separator}lock_timeout=200", url()));
    place.run("BEGIN; LOCK TABLE $S.t IN ROW EXCLUSIVE MODE").await;
    let error = load.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    place.run("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn describing_a_target_says_what_matters() {
    let place = Place::new("w_describe").await;
    place
        .run(
            "CREATE TABLE $S.t (id integer, name text NOT NULL, amount numeric(10,2), PRIMARY KEY (name, id)); \
               CREATE VIEW $S.v AS SELECT * FROM $S.t",
        )
        .await;
    let load = place.load("t", EXCHANGE, &people());
    let described = load.sink.describe(&load.spec.target).await.unwrap().unwrap();
    assert_eq!(described.primary_key, ["name", "id"]);
    assert!(!described.has_rows);
    assert!(described.notes.iter().any(|n| n.contains("view")), "{:?}", described.notes);
    assert_eq!(described.schema.field(2).metadata()["dpone:native"], "numeric(10,2)");
    place.run("INSERT INTO $S.t VALUES (1, 'a', 1)").await;
    let described = load.sink.describe(&load.spec.target).await.unwrap().unwrap();
    assert!(described.has_rows);
    let context = datafusion::prelude::SessionContext::new();
    let frame = context.read_table(described.provider).unwrap();
    assert_eq!(frame.count().await.unwrap(), 1);
    let view = place.load("v", EXCHANGE, &people());
    let error = load.sink.describe(&view.spec.target).await.unwrap_err();
    assert!(error.message().contains("a view"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_what_the_port_promises() {
    let place = Place::new("w_conformance").await;
    dpone_engine::testing::sink_conformance(Arc::clone(&place.sink), &place.schema).await.unwrap();
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}
