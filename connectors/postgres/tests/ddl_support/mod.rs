//! What the tests of DDL share: a server of one major version, a table in a schema of its own, and what a statement locks,
//! reads and writes there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dpone_engine::{Connector, Relation, ResolvedConnection, Secret, Sink, TargetTable};
use dpone_planner::schema::{Risk, Work};
use dpone_postgres::PostgresConnector;
use tokio_postgres::{Client, SimpleQueryMessage};

pub fn url(major: u32) -> String {
    let name = format!("DPONE_TEST_POSTGRES_{major}_URL");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: start servers with scripts/servers"))
}

/// A schema of its own on the server of one version. `$S` in SQL is its name.
pub struct Place {
    pub major: u32,
    pub schema: String,
    pub client: Client,
    pub sink: Arc<dyn Sink>,
}

/// What a statement did to the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub risk: Risk,
    pub lock: Lock,
    pub work: Work,
    /// The server's answer where it refused.
    pub refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    None,
    /// Of reading or writing rows.
    Rows,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    AccessExclusive,
}

impl Lock {
    fn of_catalog(mode: &str) -> Self {
        match mode {
            "AccessShareLock" | "RowShareLock" | "RowExclusiveLock" => Self::Rows,
            "ShareUpdateExclusiveLock" => Self::ShareUpdateExclusive,
            "ShareLock" => Self::Share,
            "ShareRowExclusiveLock" => Self::ShareRowExclusive,
            "ExclusiveLock" | "AccessExclusiveLock" => Self::AccessExclusive,
            other => panic!("no lock {other}"),
        }
    }

    /// As a cost names it.
    pub fn of_cost(name: Option<&str>) -> Self {
        match name {
            None => Self::None,
            Some("SHARE UPDATE EXCLUSIVE") => Self::ShareUpdateExclusive,
            Some("SHARE") => Self::Share,
            Some("SHARE ROW EXCLUSIVE") => Self::ShareRowExclusive,
            Some("ACCESS EXCLUSIVE") => Self::AccessExclusive,
            Some(other) => panic!("no lock {other}"),
        }
    }
}

/// Of the tables `t…` of the schema: the file of each with its kind, and that of each of their indexes.
const FILES: &str = "SELECT 'file', c.relkind::text, c.relname, pg_relation_filenode(c.oid)::text FROM pg_class c \
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '$S' AND c.relkind IN ('r', 'i', 'm') \
     AND (c.relname LIKE 't%' OR c.oid IN (SELECT i.indexrelid FROM pg_index i JOIN pg_class o ON o.oid = i.indrelid \
     WHERE o.relnamespace = n.oid AND o.relname LIKE 't%'))";

const READ: &str = "SELECT 'read', sum(seq_tup_read)::text FROM pg_stat_xact_all_tables WHERE schemaname = '$S'";

const LOCKS: &str = "SELECT DISTINCT 'lock', l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE l.pid = pg_backend_pid() AND l.granted AND n.nspname = '$S' \
     AND c.relname LIKE 't%' AND c.relkind IN ('r', 'p')";

impl Place {
    pub async fn new(major: u32, name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let schema = format!("ddl_{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = url(major);
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("the server answers");
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
        let connection = ResolvedConnection {
            name: "test".into(),
            kind: "postgres".into(),
            options: BTreeMap::from([("url".to_owned(), Secret::new(url))]),
            base_dir: ".".into(),
        };
        Self { major, schema, client, sink: PostgresConnector.sink(&connection).unwrap() }
    }

    /// The same session, and a schema that nothing of the case before is in.
    pub async fn fresh(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let old = self.schema.clone();
        self.schema = format!("ddl_next_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.run("SET client_min_messages = warning; RESET search_path").await;
        self.run(&format!("DROP PUBLICATION IF EXISTS {old}; DROP SCHEMA {old} CASCADE; CREATE SCHEMA $S")).await;
    }

    pub async fn drop(self) {
        self.run("SET client_min_messages = warning; DROP PUBLICATION IF EXISTS $S; DROP SCHEMA $S CASCADE").await;
    }

    fn sql(&self, text: &str) -> String {
        text.replace("$S", &self.schema)
    }

    pub async fn run(&self, sql: &str) {
        let sql = self.sql(sql);
        self.client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("PostgreSQL {}: {sql}: {e:?}", self.major));
    }

    pub fn table(&self, name: &str) -> Relation {
        Relation::new(&self.schema, name)
    }

    pub async fn describe(&self, table: &str) -> TargetTable {
        let table = self.table(table);
        self.sink.describe(&table).await.unwrap_or_else(|e| panic!("PostgreSQL {}: {e}", self.major)).unwrap()
    }

    /// Runs statements in a transaction, sees what they did, and rolls back.
    pub async fn measure(&self, statements: &[String], empty: bool) -> Measured {
        let files = self.sql(FILES);
        let body = statements.join("; ");
        let sql =
            self.sql(&format!("BEGIN; {files}; {READ}; SELECT 'changing'; {body}; {LOCKS}; {FILES}; {READ}; ROLLBACK"));
        let answers = match self.client.simple_query(&sql).await {
            Ok(answers) => answers,
            Err(error) => {
                let refusal = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
                let refusal = format!("{} {}", refusal.code().code(), refusal.message());
                self.client.batch_execute("ROLLBACK").await.unwrap();
                let nothing = (Risk::Unsupported, Lock::None, Work::None);
                return Measured { risk: nothing.0, lock: nothing.1, work: nothing.2, refusal: Some(refusal) };
            }
        };
        let mut seen = [Seen::default(), Seen::default()];
        let (mut after, mut lock) = (0, Lock::None);
        for answer in &answers {
            let SimpleQueryMessage::Row(row) = answer else { continue };
            let text = |column: usize| row.get(column).unwrap_or_default();
            match text(0) {
                "changing" => after = 1,
                "lock" => lock = lock.max(Lock::of_catalog(text(1))),
                "read" => seen[after].read = text(1).parse().unwrap_or(0),
                "file" => {
                    let files = if text(1) == "i" { &mut seen[after].indexes } else { &mut seen[after].tables };
                    files.insert(text(2).to_owned(), text(3).to_owned());
                }
                _ => {}
            }
        }
        let [before, now] = seen;
        let changed = |old: &BTreeMap<String, String>, new: &BTreeMap<String, String>| {
            new.iter().any(|(name, file)| old.get(name).is_some_and(|was| was != file))
        };
        let built = now.indexes.keys().any(|name| !before.indexes.contains_key(name));
        let work = if changed(&before.tables, &now.tables) {
            Work::Rewrite
        } else if built || changed(&before.indexes, &now.indexes) {
            Work::IndexBuild
        } else if now.read > before.read {
            Work::Scan
        } else {
            Work::None
        };
        let risk = match (lock, work) {
            (_, Work::None) => Risk::MetadataOnly,
            _ if empty => Risk::MetadataOnly,
            (Lock::None | Lock::Rows | Lock::ShareUpdateExclusive, _) => Risk::LowLock,
            _ => Risk::Blocking,
        };
        Measured { risk, lock, work, refusal: None }
    }
}

#[derive(Debug, Default)]
struct Seen {
    tables: BTreeMap<String, String>,
    indexes: BTreeMap<String, String>,
    read: u64,
}
