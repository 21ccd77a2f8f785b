//! What a case is about: a table and a strategy, drawn at random within what the strategy allows.

use crate::oracle::{
    Column, FullRefresh, Guards, IncrementalAppend, IncrementalMerge, Kind, Lag, Mark, Missing, PartitionReplace,
    PartitionScope, Replace, Scd2, Scope, Shape, SnapshotDiff, Strategy,
};

use super::{Freedom, Random, Sink, values};

#[derive(Debug)]
pub struct Design {
    pub shape: Shape,
    pub strategy: Strategy,
    pub freedom: Freedom,
    /// Somebody made the target before the first run, some of its types wider than the source's.
    pub target_made_before: bool,
    /// Partitions that are read at once.
    pub workers: usize,
    /// How a ClickHouse sink changes rows.
    pub merge_policy: Option<&'static str>,
}

const MERGE_POLICIES: &[Option<&str>] = &[
    None,
    None,
    Some("lightweight_delete_insert"),
    Some("mutation_delete_insert"),
    Some("shadow_swap"),
    Some("replacing"),
];

impl Design {
    pub fn full_refresh(random: &mut Random, sink: Sink) -> Self {
        let strategy = Strategy::FullRefresh(FullRefresh {
            overwrite_type: ["exchange", "truncate_insert"][random.below(2)],
            allow_empty_source: random.chance(50),
        });
        Self::drawn(random, sink, None, true, |_, _| strategy)
    }

    pub fn replace(random: &mut Random, sink: Sink) -> Self {
        Self::drawn(random, sink, None, true, |random, shape| {
            Strategy::Replace(Replace { scope: scope(random, shape) })
        })
    }

    pub fn incremental_append(random: &mut Random, sink: Sink) -> Self {
        let only_new_rows = random.chance(30);
        let cursor = *random.pick(CURSORS);
        let lag = lag(random, cursor);
        Self::drawn(random, sink, Some(cursor), true, |_, _| {
            Strategy::IncrementalAppend(IncrementalAppend { lag, only_new_rows })
        })
    }

    /// With keys that are NULL or repeat, where an option says what to do about them.
    pub fn incremental_merge(random: &mut Random, sink: Sink) -> Self {
        let cursor = random.chance(75).then(|| *random.pick(CURSORS));
        let lag = cursor.and_then(|cursor| lag(random, cursor));
        let quarantine = random.chance(40);
        let mut strategy = IncrementalMerge {
            lag,
            quarantine_null_keys: quarantine,
            include_null_cursors: cursor.is_some() && random.chance(20),
            ..IncrementalMerge::default()
        };
        let latest = random.chance(40);
        let delete = random.chance(70);
        let marked = random.chance(60);
        let mut design = Self::drawn(random, sink, cursor, true, |random, shape| {
            strategy.latest_by = shape.cursor.filter(|_| latest);
            let marks: Vec<usize> = (0..shape.columns.len())
                .filter(|i| matches!(shape.columns[*i].source, Kind::Boolean | Kind::Timestamptz))
                .filter(|i| shape.cursor != Some(*i) && !shape.key.contains(i))
                .collect();
            if marked && !marks.is_empty() {
                strategy.mark = Some(Mark { column: *random.pick(&marks), delete });
            }
            Strategy::IncrementalMerge(strategy)
        });
        design.with_faults(random, latest || quarantine);
        design
    }

    pub fn partition_replace(random: &mut Random, sink: Sink) -> Self {
        Self::drawn(random, sink, None, true, |random, shape| {
            Strategy::PartitionReplace(partition_replace(random, shape))
        })
    }

    pub fn snapshot_diff(random: &mut Random, sink: Sink) -> Self {
        let (latest, quarantine) = (random.chance(40), random.chance(40));
        let touched = (latest || random.chance(30)).then(|| *random.pick(CURSORS));
        let compare = ["row_hash", "all_columns"][random.below(2)];
        let missing = [Missing::Delete, Missing::Mark, Missing::Ignore][random.below(3)];
        let store_row_hash = compare == "row_hash" && random.chance(50);
        let guards = guards(random);
        let mut design = Self::drawn(random, sink, touched, true, |_, shape| {
            Strategy::SnapshotDiff(SnapshotDiff {
                compare,
                store_row_hash,
                missing,
                latest_by: shape.touched.filter(|_| latest),
                quarantine_null_keys: quarantine,
                guards,
            })
        });
        design.shape.cursor = None;
        design.target_made_before &= missing != Missing::Mark && !store_row_hash;
        design.with_faults(random, latest || quarantine);
        design
    }

    /// Versions that hold since the load.
    pub fn scd2(random: &mut Random, sink: Sink) -> Self {
        let (latest, quarantine) = (random.chance(30), random.chance(30));
        let incremental = random.chance(25);
        let touched = (latest || incremental).then(|| *random.pick(CURSORS));
        let expire = !incremental && random.chance(70);
        let guards = guards(random);
        let mut design = Self::drawn(random, sink, touched, true, |random, shape| {
            Strategy::Scd2(Scd2 {
                expire,
                track: tracked(random, shape),
                effective: None,
                latest_by: shape.touched.filter(|_| latest),
                quarantine_null_keys: quarantine,
                guards,
            })
        });
        design.shape.cursor = design.shape.touched.filter(|_| incremental);
        design.target_made_before = false;
        design.with_faults(random, latest || quarantine);
        design
    }

    /// Versions that hold since what a column of a log says.
    pub fn scd2_of_a_log(random: &mut Random, sink: Sink) -> Self {
        let effective = *random.pick(&[Kind::Date, Kind::Timestamp, Kind::Timestamptz]);
        let incremental = random.chance(50);
        let guards = guards(random);
        let mut design = Self::drawn(random, sink, Some(effective), true, |random, shape| {
            Strategy::Scd2(Scd2 {
                expire: false,
                track: tracked(random, shape),
                effective: shape.touched,
                latest_by: None,
                quarantine_null_keys: false,
                guards,
            })
        });
        design.shape.cursor = design.shape.touched.filter(|_| incremental);
        design.target_made_before = false;
        design.freedom.log = true;
        design.freedom.primary_key = false;
        design
    }

    /// Where an option says what to do about NULL or repeated keys, most cases have some.
    fn with_faults(&mut self, random: &mut Random, wanted: bool) {
        if wanted {
            self.freedom.faulty_keys = random.chance(80);
            self.freedom.primary_key &= !self.freedom.faulty_keys;
        }
    }

    /// Draws a table, and the strategy for it.
    pub(super) fn drawn(
        random: &mut Random,
        sink: Sink,
        cursor: Option<Kind>,
        keyed: bool,
        strategy: impl FnOnce(&mut Random, &Shape) -> Strategy,
    ) -> Self {
        let target_made_before = sink == Sink::Postgres && random.chance(30);
        let shape = shape(random, cursor, keyed, target_made_before);
        let strategy = strategy(random, &shape);
        let dividing: Vec<usize> = (0..shape.columns.len()).filter(|i| divides(shape.columns[*i].source)).collect();
        let folders =
            (sink == Sink::Delta && !dividing.is_empty() && random.chance(30)).then(|| *random.pick(&dividing));
        let faulty_keys = random.chance(35);
        let freedom = Freedom {
            faulty_keys,
            log: false,
            folders,
            primary_key: !faulty_keys && random.chance(50),
            rows: *random.pick(&[0, 1, 5, 10, 20, 60]),
        };
        let workers = *random.pick(&[1, 1, 2, 4]);
        let mut merge_policy = if sink == Sink::ClickHouse { *random.pick(MERGE_POLICIES) } else { None };
        let by_key = matches!(strategy, Strategy::IncrementalMerge(_) | Strategy::SnapshotDiff(_));
        if merge_policy == Some("replacing") && !by_key {
            // A table that keeps one row for each key is for these alone.
            merge_policy = Some("shadow_swap");
        }
        Self { shape, strategy, freedom, target_made_before, workers, merge_policy }
    }
}

const CURSORS: &[Kind] = &[
    Kind::BigInt,
    Kind::Date,
    Kind::Timestamp,
    Kind::Timestamptz,
    Kind::Decimal(20, 6),
    Kind::Numeric,
    Kind::Double,
    Kind::Text,
    Kind::Uuid,
];

const KEYS: &[&[(&str, Kind)]] = &[
    &[("region", Kind::Text), ("id", Kind::BigInt)],
    &[("id", Kind::Int), ("region", Kind::Text)],
    &[("id", Kind::BigInt)],
    &[("id", Kind::Uuid)],
    &[("code", Kind::Text)],
    &[("day", Kind::Date), ("code", Kind::Varchar(20))],
];

const PAYLOAD: &[(&str, &[Kind])] = &[
    ("note", &[Kind::Text, Kind::Varchar(40)]),
    ("amount", &[Kind::Numeric, Kind::Decimal(12, 2)]),
    ("weight", &[Kind::Double, Kind::Real]),
    ("flag", &[Kind::Boolean]),
    ("born", &[Kind::Date]),
    ("moment", &[Kind::Timestamp, Kind::Timestamptz]),
    ("blob", &[Kind::Bytea]),
    ("doc", &[Kind::Jsonb]),
    ("count", &[Kind::SmallInt, Kind::Int, Kind::BigInt]),
    ("other", &[Kind::Uuid]),
];

fn shape(random: &mut Random, cursor: Option<Kind>, keyed: bool, widen: bool) -> Shape {
    let mut columns = Vec::new();
    let column = |random: &mut Random, name: &str, source: Kind| {
        let target = if widen && random.chance(50) { wider(source) } else { source };
        Column { name: name.to_owned(), source, target }
    };
    let key_columns = if keyed { *random.pick(KEYS) } else { &[] };
    columns.extend(key_columns.iter().map(|(name, kind)| column(random, name, *kind)));
    let key = (0..columns.len()).collect();
    let payload = 2 + random.below(3);
    let first = random.below(PAYLOAD.len());
    for n in 0..payload {
        // Steps of three visit all ten.
        let (name, kinds) = PAYLOAD[(first + n * 3) % PAYLOAD.len()];
        let kind = *random.pick(kinds);
        columns.push(column(random, name, kind));
    }
    if random.chance(40) {
        columns.push(column(random, "gone", Kind::Boolean));
    }
    let cursor = cursor.map(|kind| {
        columns.push(Column { name: "changed_at".to_owned(), source: kind, target: kind });
        columns.len() - 1
    });
    Shape { columns, key, touched: cursor, cursor }
}

fn wider(kind: Kind) -> Kind {
    match kind {
        Kind::SmallInt => Kind::Int,
        Kind::Int => Kind::BigInt,
        Kind::Decimal(12, 2) => Kind::Decimal(20, 4),
        Kind::Real => Kind::Double,
        Kind::Varchar(_) => Kind::Text,
        other => other,
    }
}

/// Any, of the columns that are neither key nor moved by every change; often all.
fn tracked(random: &mut Random, shape: &Shape) -> Vec<usize> {
    if random.chance(60) {
        return Vec::new();
    }
    let payload = (0..shape.columns.len()).filter(|i| !shape.key.contains(i) && shape.touched != Some(*i));
    let some: Vec<usize> = payload.filter(|_| random.chance(50)).collect();
    some
}

fn guards(random: &mut Random) -> Guards {
    Guards {
        allow_empty_source: random.chance(40),
        max_delete_percent: *random.pick(&[None, Some(100), Some(100), Some(30), Some(0)]),
        max_delete_rows: random.chance(15).then_some(2),
    }
}

/// Types of which tables are divided into partitions.
fn divides(kind: Kind) -> bool {
    matches!(kind, Kind::Text | Kind::Varchar(_) | Kind::Date | Kind::Int | Kind::BigInt | Kind::Boolean)
}

fn partition_replace(random: &mut Random, shape: &Shape) -> PartitionReplace {
    let columns: Vec<usize> = (0..shape.columns.len()).filter(|i| divides(shape.columns[*i].source)).collect();
    let Some(&column) = columns.get(random.below(columns.len().max(1))) else {
        return PartitionReplace { column: 0, scope: PartitionScope::Staged { most: 1000 } };
    };
    let kind = shape.columns[column].source;
    let mut values: Vec<String> = (0..3).map(|_| random.pick(&values::pool(kind)).clone()).collect();
    values.sort_by(|a, b| kind.compare(a, b));
    values.dedup();
    let (from, to) = (values[0].clone(), values[values.len() - 1].clone());
    let scope = match random.below(4) {
        0 if kind != Kind::Boolean => PartitionScope::Window { from, to },
        1 if kind != Kind::Boolean => PartitionScope::Expected(values),
        2 => PartitionScope::Staged { most: *random.pick(&[2, 5]) },
        _ => PartitionScope::Staged { most: *random.pick(&[64, 1000]) },
    };
    PartitionReplace { column, scope }
}

fn lag(random: &mut Random, cursor: Kind) -> Option<Lag> {
    if random.chance(60) {
        return None;
    }
    match cursor {
        Kind::BigInt => Some(Lag::Number(random.below(30) as i64)),
        Kind::Date | Kind::Timestamp | Kind::Timestamptz => Some(Lag::Days(1 + random.below(3) as i64)),
        _ => None,
    }
}

fn scope(random: &mut Random, shape: &Shape) -> Scope {
    let moments = |kind: Kind| matches!(kind, Kind::Timestamp | Kind::Timestamptz | Kind::Decimal(..));
    let said = |kind: Kind| (divides(kind) && kind != Kind::Boolean) || moments(kind);
    let columns: Vec<usize> = (0..shape.columns.len()).filter(|i| said(shape.columns[*i].source)).collect();
    let Some(&column) = columns.get(random.below(columns.len().max(1))) else {
        return Scope::IsNull { column: random.below(shape.columns.len()) };
    };
    let kind = shape.columns[column].source;
    let value = |random: &mut Random| random.pick(&values::pool(kind)).clone();
    let (mut from, mut to) = (value(random), value(random));
    if kind.compare(&from, &to).is_gt() {
        std::mem::swap(&mut from, &mut to);
    }
    match random.below(5) {
        0 => Scope::Window { column, from, to },
        // Their literals are a window's own.
        1..4 if moments(kind) => Scope::Window { column, from, to },
        1 => Scope::Between { column, from, to },
        2 => Scope::AnyOf { column, values: vec![from, to] },
        3 => Scope::Not { column, value: from },
        _ => Scope::IsNull { column },
    }
}
